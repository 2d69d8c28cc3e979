"""What a request may say: OpenAI's fields that are obeyed, and the contract. Any other field is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ContractName = Literal["exact", "certified", "best_effort"]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
MOST_CHOICES = 16


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Contract(_Strict):
    """What may be lost. Without a contract the operator's default counts."""

    contract: ContractName | None = None
    max_tv: float | None = Field(default=None, gt=0, lt=1)
    max_atypical: float | None = Field(default=None, gt=0, lt=1)
    confidence: float | None = Field(default=None, gt=0, lt=1)
    max_total_tv: float | None = Field(default=None, ge=0)
    max_atypical_tokens: int | None = Field(default=None, ge=0)
    method: str | None = None
    scorer: str | None = None
    threshold: float | None = None
    audit: Literal["free", "close"] = "free"


class StreamOptions(_Strict):
    """Of a streamed answer."""

    include_usage: bool = False


class JsonSchema(_Strict):
    """A schema with its name."""

    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class AsText(_Strict):
    """No constraint."""

    type: Literal["text"]


class AsObject(_Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class AsSchema(_Strict):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class AsGrammar(_Strict):
    """A context-free grammar in Lark's notation, or a regular expression."""

    type: Literal["grammar", "regex"]
    pattern: str = Field(min_length=1, max_length=100_000)


ResponseFormat = Annotated[AsText | AsObject | AsSchema | AsGrammar, Field(discriminator="type")]


class _Common(_Strict):
    """Fields of both kinds of completion."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, lt=1)
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=0)
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    sprinter: Contract = Contract()
    # Nothing of an answer depends on these.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    # Obeyed only where they change nothing: each would be another law than any certificate speaks of.
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options does nothing without stream")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end the text."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(_Common):
    """POST /v1/completions."""

    prompt: str | Ids | Annotated[list[str] | list[Ids], Field(min_length=1, max_length=128)]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: Literal[False] = False
    suffix: None = None
    best_of: None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One for each text."""
        given = self.prompt
        if isinstance(given, str) or isinstance(given[0], int):
            return [given]
        return list(given)

    @property
    def top_logprobs_wanted(self) -> int | None:
        """How many alternatives; None: no logprobs."""
        return self.logprobs


class TextPart(_Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a chat; a template may read more of it."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[TextPart] | None = None

    def plain(self) -> dict[str, Any]:
        """The message with its content in one string."""
        told = self.model_dump(exclude_none=True)
        if isinstance(self.content, list):
            told["content"] = "".join(part.text for part in self.content)
        return told


class Tool(_Strict):
    """A function the model may ask for."""

    type: Literal["function"]
    function: dict[str, Any]


class ChatRequest(_Common):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)

    @property
    def top_logprobs_wanted(self) -> int | None:
        """How many alternatives; None: no logprobs."""
        return self.top_logprobs if self.logprobs else None

    @property
    def offered(self) -> list[dict[str, Any]] | None:
        """The tools that the template is told of; None: no tools."""
        if self.tools is None or self.tool_choice == "none":
            return None
        return [tool.model_dump() for tool in self.tools]
