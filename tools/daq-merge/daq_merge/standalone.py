"""daq-merge without a spool, as ESO's daqDpmMerge (ESO-396401 section 12.3)."""

from __future__ import annotations

import os

from daq_merge import build, options, specification
from daq_merge.how import How
from daq_merge.messages import Messages
from daq_merge.place import Place
from daq_merge.plan import BadSpecification, MissingSource, locate, plan
from daq_merge.seal import Damaged
from daqlib import alerts, cli, errors, fsops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from daq_merge.build import Built
    from daq_merge.plan import Plan
    from daq_merge.record import Record

    Document = dict[str, Any]

#: Exit code -> meaning. 0 to 102, 110 and 255 are those of the manual (12.3.3).
CODES: dict[int, str] = {
    0: "success",
    100: "specification file not found",
    101: "invalid JSON",
    102: "invalid schema",
    110: "a source file was not found",
    111: "a source file or keyword cannot be merged",
    112: "data of a source do not match their DATASUM, with --strict",
    64: "wrong arguments",
    73: "the output file exists; it is never overwritten",
    74: "input or output failed",
    75: "not now: a source changed meanwhile, somebody else merges into the target, no space",
    77: "permission denied",
    78: "the product cannot be built in the way that --way demands",
    255: "internal error (daqDpmMerge)",
    70: "internal error (daq-merge)",
}


def run(given: Namespace, internal: int = errors.Bug.code) -> int:
    """Do without a spool what the command line says; return the exit code.

    Args:
        given: the options of :mod:`daq_merge.options`, ``verify``, ``dry_run`` and ``json``.
        internal: exit code of an internal error, for the status messages.

    Raises:
        errors.DaqError: it did not work; carries the exit code.
    """
    options.refuse_alone(given)
    if given.verify:
        from daq_merge import verify

        return verify.run(given)
    if given.undo:
        return _undo_all(given)
    tell = Messages(given.json)
    try:
        return _explain(given, tell) if given.explain else _merge(given, tell)
    except errors.DaqError as error:
        raise _failed(tell, _coded(error)) from error.__cause__
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename == cli.STDOUT:
            raise  # the reader of an explanation has seen enough
        raise _failed(tell, cli.from_os_error(error)) from error
    except cli.Terminated as stop:
        tell.end(128 + stop.signum, "told to end")
        raise
    except Exception as error:
        tell.end(internal, f"{type(error).__name__}: {error}")
        raise
    finally:
        tell.close()


def _coded(error: errors.DaqError) -> errors.DaqError:
    """Give an error about sources the code of section 12.3.3."""
    if isinstance(error, BadSpecification):
        error.code = specification.NOT_VALID
    elif isinstance(error, MissingSource):
        error.code = 110
    elif isinstance(error, Damaged):
        error.code = 112
    elif isinstance(error, errors.BadData):
        error.code = 111
    return error


def _failed(tell: Messages, error: errors.DaqError) -> errors.DaqError:
    tell.end(error.code, error.message, error.remedy)
    return error


def _undo_all(given: Namespace) -> int:
    """Give merge targets back; return 1 when there was nothing to undo for one of them."""
    code = errors.OK
    for path in given.files:
        try:
            done = _undo().restore(path, cli.warn, copied=True)
        except OSError as error:
            error.filename = error.filename or path
            raise
        code = code if done else errors.NO
        if given.json:
            cli.emit({"file": path, "undone": done})
        else:
            none = "nothing to undo" if os.path.lexists(path) else (
                "there is no such file, and nothing to undo")
            cli.say(f"{path}: {'is what it was before the merge' if done else none}")
    return code


def _merge(given: Namespace, tell: Messages) -> int:
    document = _load(given, tell)
    place = Place(given, document)
    inputs = _paths(document, place.root)
    place.check_log(given.files[0], inputs)
    if place.log and not given.dry_run:
        tell.keep_in(place.log)
    place.check(inputs)
    _give_back(inputs, tell, given.dry_run)
    how = _how(given, place)
    planned = _planned(document, place, how, inputs)
    place.check_space(planned, how.way)
    if given.dry_run:
        return _announce(planned, how, tell)
    tell("plan", product=place.product, size=planned.size, hdus=len(planned.parts))
    built = _publish(planned, place, how, tell, _record(planned, document, place))
    try:
        _tell_result(built, place, tell, given.json)
    except OSError as error:
        raise errors.IoFailure(
            f"{error.filename}: {error.strerror}: {place.product} is complete, but that could not "
            "be told", "do not merge again; --verify it") from error
    return errors.OK


def _tell_result(built: Built, place: Place, tell: Messages, as_json: bool) -> None:
    _tell_conditions(built.warnings, built.alerts, tell)
    tell("done", product=place.product, size=built.size, hdus=built.hdus, way=built.way,
         manifest=place.manifest, sha256=built.sha256)
    cli.detail(f"{place.product}: {built.hdus} HDUs, {built.size} bytes, way: {built.way}")
    if not as_json:
        try:
            cli.show(place.product)
        except BrokenPipeError:
            cli.mute()  # whoever wanted to know has gone


def _explain(given: Namespace, tell: Messages) -> int:
    from daq_merge import explain

    document = specification.load(given.files[0])
    place = Place(given, document)
    inputs = _paths(document, place.root)
    _give_back(inputs, tell, True)
    planned = _planned(document, place, _how(given, place), inputs)
    if given.json:
        for event in explain.events(planned, sums=given.strict):
            cli.emit(event)
    else:
        for line in explain.text(planned, sums=given.strict, columns=explain.columns_here()):
            cli.show(line)
    return errors.OK


def _planned(document: Document, place: Place, how: How, inputs: list[str]) -> Plan:
    try:
        return plan(document, place.root, how)
    except MissingSource:
        raise
    except errors.BadData as error:
        # a file that is read in the middle of a merge in place looks like a damaged one
        for path in inputs:
            if error.message.startswith(f"{path}: ") and (
                    os.access(fsops.journal_of(path), os.F_OK) or not os.path.exists(path)):
                raise errors.Later(f"{path}: another merge is at work on it",
                                   "run again when it has ended") from error
        raise


def _load(given: Namespace, tell: Messages) -> Document:
    try:
        return specification.load(given.files[0])
    except specification.Refused:
        place = Place(given, None)
        place.check_log(given.files[0], [])
        if place.log and not given.dry_run:
            tell.keep_in(place.log)
        raise


def _how(given: Namespace, place: Place) -> How:
    sums = "trust" if given.trust_sums else "strict" if given.strict else "verify"
    return How(given.way or "auto", sums, not given.no_sync, bool(place.manifest),
               given.stamp or "primary", False, place.product)


def _paths(document: Document, root: str) -> list[str]:
    """Return the paths of the source files, as far as they are on this host."""
    found = []
    for source in [document["target"].get("source", {}), *document.get("sources", [])]:
        if "location" in source:
            try:
                found.append(locate(source["location"], root, "a source"))
            except errors.BadData:
                continue  # the plan says which source it is
    return found


def _give_back(inputs: list[str], tell: Messages, dry: bool) -> None:
    """Undo in-place merges of the inputs that a crash has interrupted.

    Raises:
        errors.Later: one is at work, or nothing may be written now.
    """
    for path in inputs:
        if not os.access(fsops.journal_of(path), os.F_OK):  # quicker than any other way to ask
            continue
        if dry:
            raise errors.Later(f"{path}: an interrupted in-place merge has to be undone first",
                               f"daq-merge --undo {path} does that, and a merge does")
        from daq_merge import undo

        if undo.restore(path, cli.warn):
            text = f"{path}: an interrupted in-place merge was undone"
            cli.warn(text)
            tell("warning", message=text)


def _announce(planned: Plan, how: How, tell: Messages) -> int:
    from daq_merge import rehearsal

    planned.warnings += rehearsal.rehearse(planned, how)
    cli.say(f"would write {how.product}: {len(planned.parts)} HDUs, {planned.size} bytes")
    tell("plan", product=how.product, size=planned.size, hdus=len(planned.parts),
         alerts=planned.alerts, warnings=planned.warnings)
    _tell_conditions(planned.warnings, planned.alerts, tell)
    return errors.OK


def _tell_conditions(warnings: list[str], raised: list[dict[str, Any]], tell: Messages) -> None:
    for text in warnings:
        cli.warn(text)
        tell("warning", message=text)
    for alert in raised:
        (cli.say if alert["severity"] == alerts.INFO else cli.warn)(alert["description"])
        tell("alert", id=alert["id"], severity=alert["severity"], message=alert["description"])


def _record(planned: Plan, document: Document, place: Place) -> Record | None:
    if not place.manifest:
        return None
    from daq_merge.record import Record

    return Record(planned, document)


def _publish(planned: Plan, place: Place, how: How, tell: Messages, record: Record | None
             ) -> Built:
    """Build the product and give it its name; whatever goes wrong, nothing is left behind."""
    place.sweep()
    embryo = place.embryo()
    built: Built | None = None
    try:
        built = build.write(planned, embryo, how, progress=tell.progress)
        if record:
            record.describe(built, place.product)
        cli.settle()
        _give_name(built, place.product, how.sync)
    except FileExistsError as error:
        _take_back(embryo, planned, how, built, error)
        raise errors.Conflict(f"{place.product} appeared meanwhile and is never overwritten",
                              "name another file with --outfile") from error
    except BaseException as error:
        _take_back(embryo, planned, how, built, error)
        told = _in_words(error, planned, embryo, place.product)
        if told is not error:
            raise told from error
        raise
    _tidy_up(built, place, how, record)
    return built


def _in_words(error: BaseException, planned: Plan, embryo: str, product: str) -> BaseException:
    """Return an error of building as it is to be told."""
    if not isinstance(error, OSError):
        return error
    if error.filename == embryo:
        error.filename = product  # nobody knows its temporary name
    gone = isinstance(error, FileNotFoundError) and error.filename
    for one in planned.inputs:
        if gone == one.file.path:  # it was there when the plan was made
            return errors.Later(f"source {one.source}: {gone} was moved away meanwhile",
                                "run again when it is there")
    return error


def _tidy_up(built: Built, place: Place, how: How, record: Record | None) -> None:
    """Do what is left when the product has its name."""
    try:
        if built.undo and how.sync:
            _undo().forget(built.undo)
        elif built.undo:
            os.unlink(built.undo)
    except OSError as error:
        cli.warn(f"{built.undo}: {error.strerror}; remove it, it is not needed any more")
    try:
        if record:
            record.write(place.manifest, place.product)
    except OSError as error:
        raise errors.IoFailure(
            f"{place.manifest}: {error.strerror}: {place.product} is complete, but has no manifest",
            "--verify it without one") from error


def _give_name(built: Built, product: str, sync: bool) -> None:
    if not sync:
        # to sync the directory would make the file system write the whole product, too
        fsops.rename_noreplace(built.path, product)
    elif not fsops.move(built.path, product):
        raise errors.Later(f"{built.path} was removed before it had its name", "run again")


def _take_back(embryo: str, planned: Plan, how: How, built: Built | None, error: BaseException
               ) -> None:
    """Leave nothing behind: remove the new file, or make the merge target what it was."""
    cli.settle()
    fsops.remove(embryo)
    if built is not None:
        built.release()  # giving back asks whether somebody is at work on the target
    if planned.base and (built.undo if built else how.way in ("in-place", "insert")):
        _undo().let_go(error)
        _undo().restore(planned.base.file.path)


def _undo() -> Any:
    from daq_merge import undo  # only merges into the target need it

    return undo
