"""A custom node pack with one node that makes memory run out in attention, for a server under test."""

from __future__ import annotations

from typing import Any


async def comfy_entrypoint() -> Any:
    """Called by the host."""
    import comfy.model_management
    from comfy_api.latest import ComfyExtension, io

    class TinyOutOfMemory(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            """Inputs and outputs."""
            return io.Schema(
                node_id="TinyOutOfMemory",
                inputs=[io.Model.Input("model"), io.Int.Input("rows", min=1)],
                outputs=[io.Model.Output("limited_model")],
            )

        @classmethod
        def execute(cls, model: Any, rows: int) -> io.NodeOutput:
            """A clone whose attention raises the host's out-of-memory error for more rows than that."""

            def attend(attention: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
                if query.shape[0] > rows:
                    raise comfy.model_management.OOM_EXCEPTION(f"{query.shape[0]} rows, memory for {rows}")
                return attention(query, *args, **kwargs)

            limited = model.clone()
            limited.model_options["transformer_options"]["optimized_attention_override"] = attend
            return io.NodeOutput(limited)

    class TinyFaults(ComfyExtension):
        async def get_node_list(self) -> list[Any]:
            return [TinyOutOfMemory]

    return TinyFaults()
