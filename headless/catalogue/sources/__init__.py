"""Where pictures come from: a path in a folder, or an address that is allowed (`places`). Imports none of the other rooms.
Who may be asked is decided in `addresses`.
"""
