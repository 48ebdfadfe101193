"""What a study claims of its results: checked by `initlab compare`, not part of any trial."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from initlab.study.field_types import Fraction, Positive, Spec

Where = Annotated[dict[str, Any], Field(json_schema_extra={"description": "dotted path -> value of an arm's trials"})]
# Claim -> the keys that it needs, and those that it may have.
KEYS: dict[str, tuple[set[str], set[str]]] = {
    "faster": ({"arm", "than"}, {"times"}),
    "reaches": ({"arm"}, set()),
    "never_reaches": ({"arm"}, set()),
    "within": ({"arm", "by"}, {"than", "error"}),
    "same_order": ({"figure"}, set()),
}


class Claim(Spec):
    """One claim on the finished trials of an arm, or of two that differ in what `than` says."""

    claim: Literal["faster", "reaches", "never_reaches", "within", "same_order"] = Field(
        description="faster: sooner at the threshold than another arm; reaches, never_reaches: every seed, no seed; "
        "within: the mean lowest validation error; same_order: he ahead of xavier at every level, as in the figure"
    )
    arm: Where = Field({}, description="dotted path -> value of the trials that the claim is about")
    than: Where = Field({}, description="the other arm: what of `arm` is different there")
    times: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(1.0, description="faster by more than this")
    by: Positive | None = Field(None, description="within so much of the other arm's error, or of `error`")
    error: Fraction | None = Field(None, description="a validation error, as published")
    figure: Literal["fig2", "fig3"] | None = Field(None, description="of He et al. (2015)")

    @model_validator(mode="after")
    def check_keys(self) -> Self:
        """Refuse a claim with a key too few, or one that it has no use for."""
        needed, possible = KEYS[self.claim]
        given = self.model_fields_set - {"claim"}
        given = {key for key in given if getattr(self, key) != type(self).model_fields[key].default}
        problem = ""
        if missing := needed - given:
            problem = f"{self.claim} needs {', '.join(sorted(missing))} (got {', '.join(sorted(given)) or 'nothing'})"
        elif unused := given - needed - possible:
            problem = f"{self.claim} has no use for {', '.join(sorted(unused))}"
        elif self.than and self.other() == self.arm:
            problem = "than says what arm says (got one arm, not two)"
        elif self.claim == "within" and ("than" in given) == ("error" in given):
            problem = "within compares with one of two (got both or neither)"
        if problem:
            allowed = ", ".join(sorted(needed | possible))
            raise PydanticCustomError("claim", "{text}", {"text": f"{problem}; allowed: {allowed}"})
        return self

    def other(self) -> dict[str, Any]:
        """The fields of the other arm."""
        return {**self.arm, **self.than}
