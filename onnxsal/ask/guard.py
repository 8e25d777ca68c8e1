"""What is run to be sure: a model before and after it was rewritten, on data of the user's or on random input; and that files open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper

from onnxsal.ask.layers import layers_of
from onnxsal.ask.missing_kernels import missing_kernels
from onnxsal.ask.question import Question, begin
from onnxsal.engine.method import Method
from onnxsal.engine.plan import Plan, make_plan
from onnxsal.errors import ExampleNeeded, InputError, MethodError, ModelError, OnnxsalError, PlanError, TargetError
from onnxsal.facts.part import part_of
from onnxsal.facts.solve import ancestors
from onnxsal.graph import FLOATS, Model
from onnxsal.graph.infer import contradiction
from onnxsal.graph.load import Source, load_model
from onnxsal.graph.standard import nodes
from onnxsal.graph.widen import float32_twin, unit_of
from onnxsal.large import Apart, apart, separable, weights_as_inputs
from onnxsal.ops.expansion import expansion_of
from onnxsal.ops.registry import known
from onnxsal.passes import Compare, Comparison, Gap, Prepared, prepare
from onnxsal.runtime.feeds import fed_inputs
from onnxsal.runtime.preprocess import as_type
from onnxsal.runtime.probe import compare_models, first_run, gaps_of, refuse_other_types
from onnxsal.runtime.providers import Providers
from onnxsal.runtime.refusals import lacks_kernel, without_kernel
from onnxsal.runtime.session import Session, open_session


def prepared(
    source: Source, proto: onnx.ModelProto, planned: Callable[[Model], object], example: Mapping[str, np.ndarray] | None = None
) -> Prepared:
    """``proto``, which was read from ``source``, made plain and compared with what it was, on ``example`` (data of some inputs) if given.

    Where that fails, gaps in the plan are told first: an operator that nobody knows cannot be run either, and that is all there is to it.
    """
    try:
        return prepare(proto, known, comparing(example), example)
    except ModelError:
        planned(prepare(load_model(source), known, None, example).model)
        raise


def refuse_open_rank(plain: Model, explained: str | None) -> None:
    """An input whose number of axes neither the file nor the graph nor data tells cannot be explained: no rule could be chosen for it.

    Raises ``ExampleNeeded``.
    """
    inputs = [n for n in plain.input_names if plain.value(n).dtype in FLOATS and plain.value(n).shape is None]
    for name in inputs if not isinstance(explained, str) else [explained]:
        if name in plain.types and plain.value(name).shape is None:
            raise ExampleNeeded(
                f"'{name}' has no declared shape, and its number of axes follows from nothing in the graph. Give data of its kind "
                "(example= in Python, --example FILE), or declare the input's shape before converting."
            )


def plan_of(question: Question, method: Method, to_layer: bool = False) -> Plan:
    """The walk that a method begins with, from the scores back to the explained input, or only ``to_layer``, the target layer."""
    explained = layers_of(question).chosen.value.name if to_layer else question.x.name
    start = begin(question) if method.seed == "score" else question.start
    return make_plan(question.model, method, [explained], [start.name])


def comparing(example: Mapping[str, np.ndarray] | None = None) -> Compare:
    """Compares a model before and after on ``example`` (inputs that it lacks are drawn), or on random feeds.

    ONNX Runtime runs both; where it has no kernels for the original (opset 6 and older), ONNX's reference evaluator runs that one.
    Where the model runs on no feed that was tried, ONNX Runtime must at least open the result, with outputs of the same types; where it has
    no kernel for a fused operator that is written in standard ones, it must open the result. A
    half-precision model whose outputs changed is compared as its float32 twin: see ``_without_rounding``.
    """

    def compare(original: onnx.ModelProto | Apart, after: onnx.ModelProto, pairs: Mapping[str, str] = MappingProxyType({})) -> Comparison:
        before = original if isinstance(original, Apart) else apart(original)
        try:
            difference = compare_models(before, after, example=example)
            gaps = tuple(Gap(*gap) for gap in gaps_of(after, pairs, example))
            found = Comparison(difference, "on the data given" if example else "", gaps=gaps)
            return found if found.accepted or not np.isfinite(difference) else _without_rounding(found, before, after, example)
        except ExampleNeeded as unknown:
            refuse_other_types(before, after)
            return Comparison(None, str(unknown))
        except ModelError as error:
            if any(expansion_of(n) is not None and n.op_type == without_kernel(error) for n in nodes(before.light)):
                open_session(apart(after), optimise=False, planned=False)
                return Comparison(
                    None, f"ONNX Runtime has no kernel on CPU for {without_kernel(error)}, so only the model made of it runs here"
                )
            raise ModelError(
                f"the model's operators had to be rewritten, and the outputs before and after could not be compared: {error} "
                "Export it with opset 18 or higher, and without fused operators."
            ) from error

    return compare


def _without_rounding(found: Comparison, before: Apart, after: onnx.ModelProto, example: Mapping[str, np.ndarray] | None) -> Comparison:
    """``found``, or what there is to say of the float32 twins of half-precision models.

    ONNX Runtime rounds such a model between the nodes that it has no kernels for, and these change with the opset: so outputs differ
    although the model means the same, in a deep network by many units in the last place. Its twin is rounded nowhere, and tells a real
    difference to five digits. Where it does not run, one unit is allowed.
    """
    unit = unit_of(after)
    if not unit:
        return found
    half = f"in half precision the outputs differ by {found.difference:.1e}"
    try:
        given = {name: _wide(array) for name, array in (example or {}).items()}
        wide = compare_models(float32_twin(before.whole()), float32_twin(after), example=given)
    except (OnnxsalError, MemoryError) as error:
        return replace(found, limit=unit, note=f"one unit in the last place is allowed: the float32 twin does not run: {error}")
    note = f"{found.note + ', ' if found.note else ''}all of it in float32; {half}"
    return replace(found, difference=wide, note=note)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


compare_on_random_input = comparing()


def plain_model(proto: onnx.ModelProto, example: Mapping[str, np.ndarray] | None = None) -> Model:
    """``proto`` made plain (it is changed in place), and compared with what it was, on ``example`` if given. Raises ``ModelError``."""
    return prepare(proto, known, comparing(example), example).model


def as_example(proto: onnx.ModelProto, example: object, explained: str | None = None) -> dict[str, np.ndarray]:
    """``example`` by the names of the model's inputs: a mapping, or an array for the only input (else the explained one).

    Raises ``InputError`` for a name that is no input, and for an array where it is not clear which input it is.
    """
    names = [v.name for v in fed_inputs(proto)]
    if example is None:
        return {}
    if not isinstance(example, Mapping):
        main = names[0] if len(names) == 1 else explained
        if main not in names:
            raise InputError(f"the model has {len(names)} inputs ({', '.join(names)}); give a dict with an array for each (example=).")
        example = {main: example}
    unknown = [str(n) for n in example if n not in {v.name for v in proto.graph.input}]
    if unknown:
        raise InputError(f"the example has '{unknown[0]}', which is no input of the model; its inputs: {', '.join(names)}.")
    kinds = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in proto.graph.input if v.name in example}
    return {str(name): as_type(np.asarray(array), kinds[name], str(name)) for name, array in example.items()}


def refuse_unopenable(source: Source, proto: onnx.ModelProto) -> str:
    """Nothing is handed out that does not open: ONNX Runtime builds ``proto``, made from ``source``, as it is written.

    Returns a reason for doubt where the CPU lacks kernels that a GPU has, or where only a custom operator beside what is explained is not
    registered here ('' = none). Raises ``ModelError`` as ``open_converted``.
    """
    elsewhere = ""
    with _blaming_whom(source):
        try:
            _open_as_written(proto)
        except ModelError as refused:
            elsewhere = _kernels_elsewhere(refused, proto) or _custom_beside(proto)
            if not elsewhere:
                raise
    return elsewhere


def _open_as_written(proto: onnx.ModelProto) -> None:
    """ONNX Runtime builds ``proto``, without the weights' data: only their type, sizes and completeness matter. Raises ``ModelError``."""
    try:
        open_session(weights_as_inputs(proto, separable(proto)), "cpu", optimise=False, threads=1, planned=False)
    except ModelError:  # it may have been the form: the model as it is decides, and its refusal names what is wrong with it
        open_session(proto, "cpu", optimise=False, planned=False)


def open_converted(
    source: Source, proto: onnx.ModelProto, providers: Providers, sizes: Mapping[str, int] | None = None, threads: int | None = None
) -> Session:
    """The session of ``proto``, made from ``source``; where ``sizes`` fix all that is open, its runs are CUDA graphs if they can be.

    Raises ``ModelError`` with the reason, and says so where it is the source itself that ONNX Runtime refuses.
    """
    with _blaming_whom(source):
        return open_session(proto, providers, threads=threads, sizes=sizes, graph=sizes is not None)


@contextmanager
def _blaming_whom(source: Source) -> Iterator[None]:
    try:
        yield
    except ModelError as refused:
        lacking = lacks_kernel(refused)
        refuse_source(source, lacking=lacking)
        if not lacking:
            _refuse_unrunnable(source)
        raise ModelError(f"ONNX Runtime refuses the model with its explanation: {refused}") from refused


def refuse_contradiction(proto: onnx.ModelProto, prefix: str) -> None:
    """Types and shapes of the nodes that were added (their names begin with ``prefix``) agree, by ONNX's own strict inference."""
    complaint = contradiction(proto)
    if f"node '{prefix}" in complaint:
        raise ModelError(f"a node that onnxsal added contradicts itself, which is a fault of onnxsal; nothing is written: {complaint}")


def _custom_beside(proto: onnx.ModelProto) -> str:
    """What is said of custom operators that no explained tensor is made by, if the rest of the model opens without them."""
    model = Model(proto)
    imported = {o.domain for o in proto.opset_import}
    custom = [n for n in model.nodes if n.domain in imported - {""} and not onnx.defs.has(n.op_type, domain=n.domain)]
    made = {o for n in custom for o in n.proto.output}
    apart = [name for name in model.output_names if made.isdisjoint(ancestors(model, [name]))]
    if not custom or not apart:
        return ""
    open_session(part_of(model, apart), "cpu", optimise=False, planned=False)
    names = ", ".join(sorted({f"{n.domain}.{n.op_type}" for n in custom}))
    return f"the file opens only where {names} is registered, which makes outputs beside the explained one"


def _kernels_elsewhere(refused: ModelError, proto: onnx.ModelProto) -> str:
    """What the CPU provider lacks and the CUDA provider has, if that is all that was refused."""
    model = Model(proto)
    if not lacks_kernel(refused) or missing_kernels(model, "cuda"):
        return ""
    lacking = ", ".join(missing_kernels(model, "cpu")) or "some of its nodes"
    return f"the model runs on a GPU only: ONNX Runtime's CPU provider has no kernel for {lacking}"


def refuse_source(source: Source, lacking: str = "") -> None:
    """Raises ``ModelError`` where ONNX Runtime does not open the model that was given, for another reason than a lack of kernels (an old
    opset, which is raised) or an IR version (which is set); or for the operator that it lacks in the converted file too (``lacking``).
    """
    try:
        open_session(source, "cpu", optimise=False, planned=False)
    except ModelError as error:
        missing = lacks_kernel(error)
        if (missing and missing == lacking) or not (missing or "IR version" in str(error)):
            raise ModelError(f"ONNX Runtime refuses the model itself: {error}") from error


@contextmanager
def blaming_the_source(source: Source) -> Iterator[None]:
    """What goes wrong in the block is the source's fault, and told so, where ONNX Runtime refuses the source, or where it does not run: no
    rule fits a broken model.

    Gaps of the plan, and errors about the file or the question, say enough themselves.
    """
    try:
        yield
    except (ModelError, MethodError, PlanError, TargetError):
        raise
    except Exception as error:
        refuse_source(source)
        if not isinstance(error, OnnxsalError | MemoryError):
            _refuse_unrunnable(source)
        raise


def _refuse_unrunnable(source: Source) -> None:
    """Raises ``ModelError`` where no random input was found on which the model runs, as where shapes contradict each other at run time."""
    try:
        first_run(load_model(source))
    except (ExampleNeeded, ModelError) as error:
        raise ModelError(
            f"the model opens, but its nodes do not fit each other: {error} If it runs on data of yours, this is a fault of onnxsal."
        ) from error
