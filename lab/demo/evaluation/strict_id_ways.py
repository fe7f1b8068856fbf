"""The ways of drawing with Strictly-ID and its rivals, the tables of them, and what is claimed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from .neighbour_plan import Claim, Column, Table, Way


class Engine(str, Enum):
    """What draws: a STRICT_ID ControlNet, a DEPTH ControlNet, an IP-Adapter's PROMPT, the TEXT alone; or the picture is the true
    one, DECODED from its latents, or the same WITHOUT its companion."""

    STRICT_ID = "strict_id"
    DEPTH = "depth"
    PROMPT = "prompt"
    TEXT = "text"
    DECODED = "decoded"
    WITHOUT = "without"

    @property
    def samples(self) -> bool:
        """Whether pictures are drawn by it."""
        return self not in (Engine.DECODED, Engine.WITHOUT)


class Picture(str, Enum):
    """Of the appearance: NONE, the scene's OWN with its companion upright and of middle height, or ANOTHER scene, with another
    companion, wall and table. Where it is not the scene's own, the companion that is asked looks like the other one's."""

    NONE = "none"
    OWN = "own"
    ANOTHER = "another"


@dataclass(frozen=True)
class How:
    """A way's settings.

    Attributes:
        engine, picture: see there.
        heights: that the companion is asked in, one after the other; empty = its own.
        leans: likewise, radians.
        tells_scale: False = the scale map is that of the middle height, whatever is asked.
        tells_pose: False = without the pose's picture.
        guided: the pictures count in the positive alone, so that guidance strengthens them too.
        std_norm, gamma: how the appearance is balanced while sampling; None = as the file says.
    """

    engine: Engine
    picture: Picture = Picture.NONE
    heights: tuple[float, ...] = ()
    leans: tuple[float, ...] = ()
    tells_scale: bool = True
    tells_pose: bool = True
    guided: bool = False
    std_norm: bool | None = None
    gamma: float | None = None

    @property
    def drawn_once(self) -> bool:
        """Whether nothing tells heights or leans apart, so that one picture is that of all."""
        return bool((self.heights and not self.tells_scale) or (self.leans and not self.tells_pose))

    @property
    def pictures(self) -> int:
        """That are drawn of a scene."""
        if not self.engine.samples:
            return 0
        return 1 if self.drawn_once else len(self.heights) or len(self.leans) or 1


HEIGHTS = (0.75, 0.95, 1.15, 1.35)  # all that companions have
LEANS = (-0.2, 0.0, 0.2)
GAMMAS = (100.0, 200.0, 400.0, 600.0, 800.0)
GAMMA = 400.0  # the paper's
SCALES = (0.25, 0.5, 0.75, 1.0, 1.5)
STRENGTHS = (1.0, 1.5, 2.0, 3.0)
IP_ADAPTER = "ipadapter_c16"
OURS = ("strict_id_no_balance",)  # what the pack brings

DECODED = How(Engine.DECODED)
OWN, ANOTHER = How(Engine.STRICT_ID, Picture.OWN), How(Engine.STRICT_ID, Picture.ANOTHER)
GUIDED = replace(ANOTHER, guided=True)

SCALE = Table(
    "scale",
    "Scale asked and scale drawn",
    "The same companion in four heights, at the same place. Its foot stays where it is: its first row says how high it is.",
    (
        Way("scale_decoded", "the true pictures through the autoencoder", replace(DECODED, heights=HEIGHTS)),
        Way("scale", "Strictly-ID", replace(OWN, heights=HEIGHTS), OURS),
        Way("scale_untold", "the same scale map for all", replace(OWN, heights=HEIGHTS, tells_scale=False), OURS),
    ),
    ("scale_slope", "scale_error", "found"),
)
PASTE = Table(
    "paste",
    "Under the paste",
    "How well what is drawn of the product agrees with what is pasted over it.",
    (
        Way("paste_decoded", "the true pictures through the autoencoder", replace(DECODED, picture=Picture.OWN)),
        Way("text", "text alone", How(Engine.TEXT)),
        Way("depth", "depth ControlNet", How(Engine.DEPTH)),
        Way("paste", "Strictly-ID", OWN, OURS),
    ),
    ("overlap", "rim", "text"),
)
POSE = Table(
    "pose",
    "Pose",
    "The same companion leaning to the left, upright, and to the right: which of the three true pictures leans most like the "
    "drawn one.",
    (
        Way("pose_decoded", "the true pictures through the autoencoder", replace(DECODED, leans=LEANS)),
        Way("pose", "Strictly-ID", replace(OWN, leans=LEANS), OURS),
        Way("pose_guided", "guidance on the pictures too", replace(OWN, leans=LEANS, guided=True), OURS),
        Way("pose_untold", "without the pose", replace(OWN, leans=LEANS, tells_pose=False), OURS),
    ),
    ("pose_right", "pose_slope", "found"),
)
BALANCE = Table(
    "balance",
    "Appearance against the text",
    "The paper's table 6. The text names product, table and wall; the picture shows another companion on another table "
    "before another wall. The file was trained with neither STD-Norm nor time weighting; what was trained with them, 2,400 steps "
    "and a gamma of 600 (the paper's is 400), has rows of its own. Whether the negative has the pictures too the paper does not "
    "say: in the row Strictly-ID it has, below it guidance strengthens them.",
    (
        Way(
            "conflict_decoded",
            "the true pictures through the autoencoder",
            replace(DECODED, picture=Picture.ANOTHER),
        ),
        Way(
            "conflict_without",
            "the same without their companions: nothing to be found",
            How(Engine.WITHOUT, Picture.ANOTHER),
        ),
        Way("no_appearance", "Strictly-ID without an appearance", How(Engine.STRICT_ID), OURS),
        Way("conflict", "Strictly-ID", ANOTHER, OURS),
        Way("guided", "guidance on the pictures too", GUIDED, OURS),
        Way("guided_best", "guidance on the pictures too, best strength", GUIDED, OURS, scales=STRENGTHS),
        Way("guided_std_norm", "the same with STD-Norm", replace(GUIDED, std_norm=True), OURS),
        Way("guided_time", "the same with time weighting", replace(GUIDED, gamma=GAMMA), OURS),
        Way("guided_both", "the same with both", replace(GUIDED, std_norm=True, gamma=GAMMA), OURS),
        Way(
            "trained_std_norm",
            "guidance on the pictures too, trained with STD-Norm",
            GUIDED,
            ("strict_id_no_time_weighting",),
        ),
        Way("trained_both", "guidance on the pictures too, trained with both", GUIDED, ("strict_id_whole",)),
        Way("prompt", "IP-Adapter", How(Engine.PROMPT, Picture.ANOTHER), (IP_ADAPTER,), scales=SCALES),
    ),
    ("text", "companion", "both", "found"),
)
BY_GAMMA = Table(
    "gamma",
    "Gamma",
    "Guidance on the pictures too, with time weightings while sampling; the file was trained with none.",
    (
        Way("guided", "without time weighting", GUIDED, OURS),
        *(Way(f"gamma_{gamma:g}", f"gamma {gamma:g}", replace(GUIDED, gamma=gamma), OURS) for gamma in GAMMAS),
    ),
    ("text", "companion", "both", "found"),
)
TABLES = (
    SCALE,
    SCALE.of_many(),
    POSE,
    POSE.of_many("pose_decoded", "pose_guided", "pose_untold"),
    BALANCE,
    BALANCE.of_many(
        "conflict_decoded", "no_appearance", "guided", "guided_best", "trained_std_norm", "trained_both", "prompt"
    ),
    BY_GAMMA,
    BY_GAMMA.of_many("guided", "gamma_100", "gamma_400", "gamma_800"),
    PASTE,
    PASTE.of_many(),
)
MEASURES = {
    "scale_slope": Column("height drawn for height asked, slope", "nearer to 1", read_of=("look",)),
    "scale_error": Column("error of the height, share of it", "lower", read_of=("look",)),
    "pose_right": Column("poses right, of three", "higher", read_of=("look",)),
    "pose_slope": Column("lean drawn for lean asked, slope", "nearer to 1", read_of=("look",)),
    "companion": Column("companion as in the picture, of nine", "higher", is_rate=True, read_of=("other look",)),
    "text": Column("table and wall as the text says", "higher", is_rate=True, read_of=("wall",)),
    "both": Column("both", "higher", is_rate=True, read_of=("wall", "other look")),
    "found": Column("companion found", "higher", read_of=("look",)),
    "overlap": Column("drawn product in the mask, IoU", "higher", read_of=("product",)),
    "rim": Column("colour of its rim, RGB distance", "lower", read_of=("product",)),
}
CLAIMS = (
    Claim(
        "The companion is drawn as high as it is asked, not by chance", "scale", "scale_slope", "scale", "scale_untold"
    ),
    Claim("On many scenes it is drawn as high as it is asked", "scale_many", "scale_slope", "scale", "scale_untold"),
    Claim("It leans as it is asked, not by chance", "pose", "pose_right", "pose_guided", "pose_untold"),
    Claim("The further it is asked to lean the further it leans", "pose", "pose_slope", "pose_guided", "pose_untold"),
    Claim("So it does where the negative has the pose too", "pose", "pose_slope", "pose", "pose_untold"),
    Claim("On many scenes it leans as it is asked", "pose_many", "pose_right", "pose_guided", "pose_untold"),
    Claim(
        "On many scenes the further it is asked to lean the further it leans",
        "pose_many",
        "pose_slope",
        "pose_guided",
        "pose_untold",
    ),
    Claim("It looks as in the picture, not by chance", "balance", "companion", "guided_best", "no_appearance"),
    Claim("So it does where the negative has the picture too", "balance", "companion", "conflict", "no_appearance"),
    Claim(
        "So it does where both balances were trained",
        "balance",
        "companion",
        "trained_both",
        "no_appearance",
    ),
    Claim(
        "Trained with both more of the text is right than trained with none",
        "balance",
        "text",
        "trained_both",
        "guided",
    ),
    Claim("Trained with STD-Norm more of it than with none", "balance", "text", "trained_std_norm", "guided"),
    Claim("Trained with both more of it than with STD-Norm", "balance", "text", "trained_both", "trained_std_norm"),
    Claim("Trained with none more of it than with an IP-Adapter", "balance", "text", "guided", "prompt"),
    Claim("On many scenes it looks as in the picture", "balance_many", "companion", "guided_best", "no_appearance"),
    Claim(
        "On many scenes so it does where both balances were trained",
        "balance_many",
        "companion",
        "trained_both",
        "no_appearance",
    ),
    Claim(
        "On many scenes trained with both more of the text is right than with none",
        "balance_many",
        "text",
        "trained_both",
        "guided",
    ),
    Claim(
        "On many scenes trained with STD-Norm more of it than with none",
        "balance_many",
        "text",
        "trained_std_norm",
        "guided",
    ),
    Claim(
        "On many scenes trained with none more of it than with an IP-Adapter",
        "balance_many",
        "text",
        "guided",
        "prompt",
    ),
    Claim(
        "On many scenes with time weighting while sampling more of the text is right than without",
        "gamma_many",
        "text",
        "gamma_400",
        "guided",
    ),
    Claim(
        "On many scenes without it the companion is as in the picture more often",
        "gamma_many",
        "companion",
        "guided",
        "gamma_400",
    ),
    Claim("With time weighting more of the text is right than without", "balance", "text", "guided_time", "guided"),
    Claim("With STD-Norm more of the text is right than without", "balance", "text", "guided_std_norm", "guided"),
    Claim(
        "What is drawn has the product's outline more than a depth ControlNet's", "paste", "overlap", "paste", "depth"
    ),
    Claim("An item's picture leaves less of a rim than its depth", "paste", "rim", "depth", "paste"),
    Claim("On many scenes more of its outline", "paste_many", "overlap", "paste", "depth"),
    Claim("On many scenes less of a rim", "paste_many", "rim", "depth", "paste"),
    Claim("On many scenes a depth ControlNet keeps more of the text", "paste_many", "text", "depth", "paste"),
)
