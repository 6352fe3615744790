"""The OpenAI API's completions, as far as they are served."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

Token = Annotated[int, Field(ge=0)]


class CompletionRequest(BaseModel):
    """POST /v1/completions. `ignore_eos` and `priority` are ours; what OpenAI has and we have not is refused."""

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    prompt: str | list[str] | list[Token] | list[list[Token]]
    max_tokens: Annotated[int, Field(ge=1)] = 16
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    echo: bool = False
    n: Annotated[int, Field(ge=1, le=1)] = 1
    ignore_eos: bool = False
    priority: int = 0
    user: str | None = None

    @field_validator("prompt")
    @classmethod
    def _some(cls, prompt: Any) -> Any:
        if not prompt or (isinstance(prompt, list) and any(part in ("", []) for part in prompt)):
            raise ValueError("a prompt must not be empty")
        return prompt

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, one per choice."""
        prompt: Any = self.prompt
        return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


def error(
    message: str, param: str | None = None, code: str | None = None, kind: str = "invalid_request_error"
) -> Any:
    """Return an error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
