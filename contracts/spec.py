"""The spec: the one file that ties a deployment together (training, serving, simulation, validation).

A spec is a tree of frozen dataclasses, loaded from YAML and checked on load. pydantic does the
checking, because its errors carry the path and the value of the field that is wrong.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from contracts.errors import SpecError

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
Level = Annotated[float, Field(gt=0.0, lt=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Storage = Literal["float32", "float16", "uint16", "uint8"]
MaskedGroup = Literal["rewards", "scores"]
UnknownRule = Literal["fill", "fallback"]
ServingRuntime = Literal["onnx", "eager", "eager_bfloat16"]
MaskKey = Annotated[str, Field(min_length=1, max_length=128)]

UNKNOWN_STATES = ("missing", "stale", "never_materialized")
"""Why a member's feature may not be known when a decision is made; ``Unknown`` has a rule for each."""

PROBABILITY_STORAGE: tuple[Storage, ...] = ("uint16", "float32")
"""How probabilities may be kept: a replay shows them to the caller."""

RESERVED_NAMES = frozenset({"feast", "redis", "run"})
"""Folders of ``var`` that are no tenant's."""

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Log:
    """How a decision log of this deployment is read."""

    importer: Literal["contract", "heartsteps"] = "contract"
    max_reject_share: Share = 0.01
    """A run stops when more than this share of the rows breaks the contract."""


@dataclass(frozen=True, config=_STRICT)
class Table:
    """A feature table that the log's owner brings: ``features/<name>.parquet`` becomes a feature view."""

    features: Annotated[tuple[Name, ...], Field(min_length=1)]
    ttl_days: Positive | None = None
    """Older values count as stale. None: values never go stale."""


@dataclass(frozen=True, config=_STRICT)
class Unknown:
    """What becomes of a decision, by the reason why a feature of its member is not known.

    ``fill``: it is made, and the feature's ``state.missing`` value stands in, as in training. ``fallback``: it is not
    made, and the caller gets the safe action with the reason. Training cannot tell the reasons apart: to it they are
    all missing.
    """

    missing: UnknownRule = "fill"
    """Nothing is stored of the member, or no value."""
    stale: UnknownRule = "fill"
    """What is stored is older than its view's ttl at the decision's time."""
    never_materialized: UnknownRule = "fallback"
    """Its view holds nothing of anyone: somebody forgot to fill it."""


@dataclass(frozen=True, config=_STRICT)
class State:
    """What the model sees of a member and of the top-1 candidate."""

    feature_service: Name
    candidate: tuple[Name, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Values of a categorical candidate feature. A text column not named here: those seen in training."""
    missing: Mapping[str, float] = Field(default_factory=dict)
    """Value of a feature that is not known; ``default`` holds for the rest (0.0)."""
    unknown: Unknown = Field(default_factory=Unknown)
    """Whether a decision is made without it."""
    storage: Mapping[str, Storage] = Field(default_factory=dict)
    """How the ring keeps each float group: ``state``, ``rewards``, ``scores``, with ``default`` for the rest of them,
    and ``probabilities``. uint8 and uint16 keep whole steps from a column's median."""
    tables: Mapping[Name, Table] = Field(default_factory=dict)
    """Feature views made of tables brought with the log; empty where feature_repo defines them in Python."""

    def missing_value(self, feature: str) -> float:
        """Return the value that stands for ``feature`` where it is missing."""
        return self.missing.get(feature, self.missing.get("default", 0.0))

    def storage_of(self, group: str) -> Storage:
        """Return the storage type of one float group of the ring: float16 unless said, probabilities uint16."""
        if group == "probabilities":
            return self.storage.get(group, "uint16")
        return self.storage.get(group, self.storage.get("default", "float16"))


@dataclass(frozen=True, config=_STRICT)
class Reward:
    """One component of the reward vector."""

    kind: Literal["predicted", "counter", "penalty"]
    feature: Name | None = None
    """Cumulative feature: needed by a counter; a predicted reward's label while serving, if any."""
    per_action: Mapping[str, float] = Field(default_factory=dict)
    """Penalty of each action; an action not named costs nothing."""
    grows_with: Name | None = None
    """Feature x that makes a penalty adaptive: times (1 + max(x, 0))."""


@dataclass(frozen=True, config=_STRICT)
class Absolute:
    """A prompt given as a return rather than as a level."""

    value: float


Prompt = Level | Absolute


@dataclass(frozen=True, config=_STRICT)
class Model:
    """Shape of the Decision Transformer."""

    width: Annotated[int, Field(ge=8, le=4096, multiple_of=4)] = 64
    layers: Annotated[int, Field(ge=1, le=48)] = 2
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    action_input: Literal["state_return", "return"] = "state_return"
    """What the action head reads: [h_s ; h_R] or h_R alone (the paper's section 6.4.2)."""
    eligibility_gate: bool = True
    """The learned gate of the EAS embedding; ineligible actions are removed either way."""
    earlier_returns: Literal["hidden", "predicted"] = "hidden"
    """What history says of earlier returns-to-go: nothing, or the model's own predictions (eq. 4)."""


@dataclass(frozen=True, config=_STRICT)
class EarlyStopping:
    """A fit ends when the loss on members kept apart for it no longer falls; the best epoch's weights are kept."""

    patience: Annotated[int, Field(ge=1)] = 2
    """Epochs without a lower loss after which a fit ends."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training members (not of those of the offline evaluation) kept apart."""


@dataclass(frozen=True, config=_STRICT)
class Training:
    """How a model is fitted."""

    epochs: Annotated[int, Field(ge=1)] = 4
    batch_size: Annotated[int, Field(ge=1)] = 512
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    warmup_share: Share = 0.05
    rtg_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """lambda of equation 9."""
    predicted_returns: Share = 0.1
    """Share of windows whose actions are conditioned on the model's own quantiles, as in service. More narrows the
    shift from training on true returns, and makes the policy follow its prompt less (docs/results.md)."""
    masked_share: Share = 0.1
    """Share of windows in whose history predicted rewards, scores or both are masked, as ``ring.masked`` does."""
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """Share of members, not windows, kept for offline evaluation."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number type of matrix products while fitting; weights, losses and what is served stay float32."""
    early_stopping: EarlyStopping | None = None
    """None: all epochs are done, and no member is kept apart for it."""
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=_STRICT)
class Exploration:
    """Epsilon-greedy exploration while serving, for a share of the members, chosen by hash."""

    epsilon: Share = 0.0
    share: Share = 0.0


@dataclass(frozen=True, config=_STRICT)
class Limits:
    """Hard caps, applied as eligibility."""

    sends_per_day: Annotated[int, Field(ge=0)] | None = None
    """Actions other than index 0 in any 24 h; at the cap only index 0 is eligible.

    They are counted in the member's ring: give it a capacity of at least the decisions made in 24 h.
    """


@dataclass(frozen=True, config=_STRICT)
class Ring:
    """The member's circular buffer."""

    capacity: Annotated[int, Field(ge=1, le=1024)] = 16
    ttl_days: Positive = 14.0
    mask_key: MaskKey = "v1"
    accept: tuple[str, ...] = ("*",)
    """Mask keys (exact or glob) whose entries are history; empty: none."""
    masked: Mapping[MaskKey, Annotated[tuple[MaskedGroup, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Mask keys (exact or glob) of whose entries the model sees state and action, but not these groups: ``rewards``,
    the predicted ones, and ``scores``. They count as unknown. ``accept`` decides what is history at all."""
    replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that must have acknowledged a decision's append, or its item falls back. 0: the master alone decides."""
    wait_ms: Annotated[int, Field(ge=1)] = 20
    """How long an append waits for them. It must be less than the client's timeout (serve/rings.py)."""


@dataclass(frozen=True, config=_STRICT)
class Deadlines:
    """How long one batch may wait for its reads before its items fall back, in milliseconds."""

    features: Positive = 20.0
    rings: Positive = 20.0


@dataclass(frozen=True, config=_STRICT)
class Serving:
    """How a trained model is run in service."""

    runtime: ServingRuntime = "onnx"
    """``onnx``: ONNX Runtime, the fastest. ``eager``: PyTorch, the reference; both answer alike within 1e-5.
    ``eager_bfloat16``: PyTorch with numbers of half the size, and answers of two digits (docs/inference.md). A model
    with ``earlier_returns: predicted`` is never exported: with ``onnx`` it runs in PyTorch."""


@dataclass(frozen=True, config=_STRICT)
class Spec:
    """One deployment. Field by field as in DESIGN 4.1; every default is here."""

    name: Name
    actions: Annotated[tuple[Name, ...], Field(min_length=2, max_length=63)]
    state: State
    rewards: Annotated[Mapping[Name, Reward], Field(min_length=1)]
    prompt: Mapping[str, Prompt]
    quantiles: Annotated[tuple[Level, ...], Field(min_length=2)]
    context_length: Annotated[int, Field(ge=1, le=128)] = 4
    horizon: Annotated[int, Field(ge=0)] = 16
    discount: Annotated[float, Field(gt=0.0, le=1.0)] = 0.97
    cohorts: Mapping[Name, Mapping[str, Prompt]] = Field(default_factory=dict)
    exploration: Exploration = Field(default_factory=Exploration)
    limits: Limits = Field(default_factory=Limits)
    ring: Ring = Field(default_factory=Ring)
    deadlines_ms: Deadlines = Field(default_factory=Deadlines)
    log: Log = Field(default_factory=Log)
    model: Model = Field(default_factory=Model)
    training: Training = Field(default_factory=Training)
    serving: Serving = Field(default_factory=Serving)

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Reward names in the spec's order, which is the order of every reward vector."""
        return tuple(self.rewards)

    @property
    def predicted_rewards(self) -> tuple[str, ...]:
        """Names of the rewards that a utility model predicts."""
        return tuple(name for name, reward in self.rewards.items() if reward.kind == "predicted")

    @property
    def counter_features(self) -> tuple[str, ...]:
        """Cumulative features that rewards are read from, without repeats, in the rewards' order."""
        named = (reward.feature for reward in self.rewards.values() if reward.kind != "penalty")
        return tuple(dict.fromkeys(feature for feature in named if feature is not None))


_ADAPTER = TypeAdapter(Spec)

Parsed = TypeVar("Parsed")


class _UniqueKeyLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's safe loader, refusing a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool):
                if key in seen:
                    line = key_node.start_mark.line + 1
                    raise yaml.YAMLError(f"duplicate name {key!r} in line {line}")
                seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def load_spec(path: Path) -> Spec:
    """Load and check the spec in the YAML file ``path``.

    Raises SpecError, naming the file, the field and the value of everything that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such spec; see specs/ for examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    return parse_spec(text, source=str(path))


def parse_spec(text: str, source: str) -> Spec:
    """Parse and check a spec given as YAML text; ``source`` names it in errors. Raises SpecError."""
    spec = parse_yaml(text, source, _ADAPTER)
    problems = list(_inconsistencies(spec))
    if problems:
        raise SpecError("\n".join(f"{source}: {problem}" for problem in problems))
    return spec


def parse_yaml(text: str, source: str, adapter: TypeAdapter[Parsed]) -> Parsed:
    """Parse YAML text into the type of ``adapter``. Raises SpecError naming ``source``, field and value."""
    try:
        # The loader is a SafeLoader.
        tree = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise SpecError(f"{source}: a spec is a mapping of keys to values, this is {type(tree).__name__}")
    try:
        document = json.dumps(tree)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{source}: only text, numbers, lists and mappings may stand here: {error}") from None
    try:
        return adapter.validate_json(document)
    except ValidationError as error:
        lines = [_explain(source, detail) for detail in error.errors()]
        raise SpecError("\n".join(dict.fromkeys(lines))) from None


def dump_spec(spec: Spec) -> str:
    """Return ``spec`` as YAML text with every default written out; ``parse_spec`` reads it back equal."""
    plain = json.loads(_ADAPTER.dump_json(spec))
    # Escaped: YAML reads some characters beyond ASCII, such as U+0085, as line breaks.
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=False)
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to ``name``, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_features(spec: Spec, service_features: Iterable[str], source: str) -> None:
    """Check every member feature that ``spec`` names against those of its feature service.

    Raises SpecError naming ``source``, the field, the misspelt feature and the nearest known one.
    """
    known = tuple(service_features)
    named: list[tuple[str, str]] = []
    for name, reward in spec.rewards.items():
        named += [(f"rewards.{name}.feature", reward.feature or "")]
        named += [(f"rewards.{name}.grows_with", reward.grows_with or "")]
    named += [(f"state.missing.{key}", key) for key in spec.state.missing]
    allowed = {"", "default", *known, *spec.state.candidate}
    problems = [
        f"{source}: {field} = {value!r}: feature service {spec.state.feature_service!r} has no such "
        f"feature{nearest(value, known)}"
        for field, value in named
        if value not in allowed
    ]
    if problems:
        raise SpecError("\n".join(problems))


def _explain(source: str, detail: Mapping[str, Any]) -> str:
    """Turn one of pydantic's errors into a line with file, field and value."""
    # Members of the union level | {"value": x} appear in the path as type names; they say nothing to a reader.
    path = [str(part) for part in detail["loc"] if str(part).split("[")[0] not in {"float", "constrained-float"}]
    path = [part for part in path if part not in {"Absolute", "[key]"}]
    field = ".".join(path) or "spec"
    if detail["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return f"{source}: {field}: unknown key{nearest(path[-1], _known_keys())}"
    if detail["type"] in {"missing", "missing_argument"}:
        return f"{source}: {field}: required key is missing"
    return f"{source}: {field} = {detail['input']!r}: {detail['msg']}"


def _known_keys() -> set[str]:
    classes = (
        Spec,
        State,
        Unknown,
        Reward,
        Ring,
        Log,
        Table,
        Model,
        EarlyStopping,
        Training,
        Serving,
        Exploration,
        Limits,
        Deadlines,
        Absolute,
    )
    return {key for cls in classes for key in cls.__dataclass_fields__}


def _inconsistencies(spec: Spec) -> Iterable[str]:
    """Yield what no single field shows: rules between fields."""
    for group, names in (
        ("actions", spec.actions),
        ("state.candidate", spec.state.candidate),
        ("quantiles", spec.quantiles),
    ):
        repeated = sorted({str(name) for name in names if names.count(name) > 1})
        if repeated:
            yield f"{group}: duplicate name {', '.join(repeated)}"
    if spec.name in RESERVED_NAMES:
        yield f"name = {spec.name!r}: a tenant may not be called {', '.join(sorted(RESERVED_NAMES))}"
    if list(spec.quantiles) != sorted(spec.quantiles):
        yield f"quantiles = {list(spec.quantiles)}: levels must rise; write {sorted(spec.quantiles)}"
    if spec.context_length > spec.ring.capacity:
        yield (
            f"context_length {spec.context_length} exceeds ring capacity {spec.ring.capacity}; "
            "raise ring.capacity or shorten the context"
        )
    if spec.model.width % spec.model.heads:
        yield f"model.width {spec.model.width} is not a multiple of model.heads {spec.model.heads}"
    yield from _prompt_problems("prompt", spec.prompt, spec, complete=True)
    for cohort, prompt in spec.cohorts.items():
        yield from _prompt_problems(f"cohorts.{cohort}", prompt, spec, complete=False)
    for name, reward in spec.rewards.items():
        if reward.kind == "counter" and reward.feature is None:
            yield f"rewards.{name}.feature: a counter reward needs its cumulative feature"
        if reward.kind != "penalty" and (reward.per_action or reward.grows_with):
            yield f"rewards.{name}: per_action and grows_with belong to kind penalty, not {reward.kind}"
        if reward.kind == "penalty" and not reward.per_action:
            yield f"rewards.{name}.per_action: a penalty reward names what each action costs"
        for action in reward.per_action:
            if action not in spec.actions:
                yield f"rewards.{name}.per_action.{action}: no such action{nearest(action, spec.actions)}"
    for category in spec.state.categories:
        if category not in spec.state.candidate:
            yield f"state.categories.{category}: no such candidate feature{nearest(category, spec.state.candidate)}"
    owners: dict[str, str] = dict.fromkeys(spec.state.candidate, "state.candidate")
    for table_name, table in spec.state.tables.items():
        for feature in table.features:
            if feature in owners:
                yield f"state.tables.{table_name}.features: duplicate name {feature}, also in {owners[feature]}"
            owners[feature] = f"state.tables.{table_name}"
    yield from _ring_problems(spec)


def _ring_problems(spec: Spec) -> Iterable[str]:
    groups = ("default", "state", "rewards", "scores", "probabilities")
    for group in spec.state.storage:
        if group not in groups:
            yield f"state.storage.{group}: no such group; known are {', '.join(groups)}"
    if (kept := spec.state.storage_of("probabilities")) not in PROBABILITY_STORAGE:
        yield f"state.storage.probabilities = {kept!r}: callers see them; choose {' or '.join(PROBABILITY_STORAGE)}"
    for key, masked in spec.ring.masked.items():
        for group in sorted({group for group in masked if masked.count(group) > 1}):
            yield f"ring.masked.{key}: duplicate name {group}"
        if not spec.predicted_rewards:
            yield f"ring.masked.{key}: there are no {' or '.join(masked)}, since no reward is of kind predicted"


def _prompt_problems(field: str, prompt: Mapping[str, Prompt], spec: Spec, *, complete: bool) -> Iterable[str]:
    for name in prompt:
        if name not in spec.rewards:
            yield f"{field}.{name}: no such reward{nearest(name, spec.rewards)}"
    if complete:
        for name in spec.rewards:
            if name not in prompt:
                yield f"{field}: no level for reward {name!r}"
