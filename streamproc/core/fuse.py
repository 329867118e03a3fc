"""Plan -> its generated loops; the only place that generates code.

    for v, ts in records:           a record that sails through costs little more than the functions it meets
        W moves?                    what is due closes first
        filter, map, key_by         inline
        window, fold                inline; everything that may raise comes before the first assignment
    except: plain(index)            late, null, failing: that one record by its plain meaning

The loop of an inlet covers the chain of stateless nodes behind it, one parting of ways, and fixed windows on close or
plain sinks at the ends; to any other node it hands records one at a time.  Windows whose results go straight to topics
close all at once.  A law says that nobody can tell a generated loop from the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any

from streamproc.core.aggregates import Folding
from streamproc.core.batch import FARTHEST, Cell, Crossing, Emit
from streamproc.core.errors import TaskFailed
from streamproc.core.operators import Branch, Cross, Filter, KeyBy, Keyed, Map, Pass, Sink, Split
from streamproc.core.plan import Place, Plan, Stage, shown
from streamproc.core.site import Site
from streamproc.core.state import Entry, KeyId, key_id
from streamproc.core.task import Task
from streamproc.core.windowing import WindowAggregate, WindowResult
from streamproc.core.windows import FixedWindow, Tumbling

FAR = 4 * FARTHEST
"""An instant beyond all: both ends of a span that holds nothing."""


class Aside(Exception):
    """This record is no plain sailing: it takes the plain way."""


def fuse(task: Task) -> None:
    """Give a task the generated loops of its stage, where there are any."""
    task.alone = len(task.inputs) == 1 and task.stage.inlets[0].source is not None
    bounded = task.writer.bounds is not None
    for number in range(len(task.stage.inlets)):
        task.loops[number] = _compiled(_Loop(task.stage, number, moving=task.alone, bounded=bounded))
    for site in task.stateful:
        if isinstance(site.operator, WindowAggregate) and all(_is_plain(child.operator) for child in site.children):
            site.closer = _closer(task, site, site.operator)


def _closer(task: Task, site: Site, windows: WindowAggregate) -> Callable[[int, list[tuple[KeyId, Entry]]], None]:
    """What closes all windows of one instant whose results go straight to topics, and nowhere else."""
    name, result, new = site.place.name, windows.folds.result, tuple.__new__
    encode, encode_key, bounds = task.writer
    topics = [child.operator.topic for child in site.children]

    def close(at: int, taken: list[tuple[KeyId, Entry]]) -> None:
        if windows.updates:  # these results have been written
            task.closed(name, len(taken))
            return
        start, end = windows.bounds(at)
        outs = [task.outs[topic] for topic in topics]
        most = FAR
        if bounds is not None:
            taken_by = list(map(bounds, topics))
            most = min(one.size if end - 1 <= one.latest else -1 for one in taken_by)
        passed = 0
        for _, entry in taken:
            try:
                key = entry[0]
                route = encode_key(key)
                value = encode(WindowResult(key, start, end, result(entry)))
                if len(value) > most:
                    raise Aside  # noqa: TRY301
                row = new(Emit, (route, value, end - 1, (), route))
            except Exception:  # noqa: BLE001 - user code, or a value without bytes: that one by its plain meaning
                task.close(site, Cell(at, entry[0], entry))
                continue
            for out in outs:
                out.append(row)
            passed += 1
        task.closed(name, passed)
        task.tally(name, 0, passed)
        for child in site.children:
            task.tally(child.place.name, passed, passed)

    return close


def _is_plain(operator: Any) -> bool:
    """Whether this is a topic that everything goes to as it is."""
    match operator:
        case Sink(str(), _, None, None, None):
            return True
    return False


def code(plan: Plan) -> str:
    """The generated loops of a plan, to be read."""
    loops = []
    for stage in plan.stages:
        moving = len(stage.inlets) == 1 and stage.inlets[0].source is not None
        loops += [_Loop(stage, number, moving=moving).source for number in range(len(stage.inlets))]
    return "\n\n".join(loops)


def _compiled(loop: _Loop) -> Callable[..., None]:
    names = dict(loop.names)
    exec(_bytecode(loop.source), names)
    made: Callable[..., None] = names["loop"]
    return made


@lru_cache(maxsize=256)
def _bytecode(source: str) -> Any:
    return compile(source, "<generated loop>", "exec")


class _Text:
    """Lines of Python in the making, with their indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0

    def say(self, *lines: str) -> None:
        self.lines += ["    " * self._depth + line for line in lines if line]

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """A compound statement; it says `pass` where nothing is said within."""
        self.say(header)
        self._depth += 1
        length = len(self.lines)
        yield
        if len(self.lines) == length:
            self.say("pass")
        self._depth -= 1


@dataclass(frozen=True)
class _Path:
    """A way through the stage: the nodes that are inlined, and the one at the end, None if it leads nowhere."""

    chain: tuple[int, ...]
    end: int | None


class _Loop:
    """The source of one inlet's loop, and the globals it needs.

    With `moving`, the records are all that moves W, and the loop sees to it; else W stands still while it runs.  With
    `bounded`, topics do not take everything, and it looks what they take.
    """

    def __init__(self, stage: Stage, inlet: int, *, moving: bool, bounded: bool = False) -> None:
        self.places = stage.places
        self.moving = moving
        self.bounded = bounded
        self.names: dict[str, Any] = {
            "FAR": FAR, "Aside": Aside, "TaskFailed": TaskFailed, "Crossing": Crossing, "Emit": Emit,
            "WindowResult": WindowResult, "key_id": key_id, "new": tuple.__new__, "repeat": repeat,
        }  # fmt: skip
        self.start: dict[str, None] = {}
        self.tallies: list[str] = []
        self.text = _Text()
        self.reached = self._reachable(stage.inlets[inlet].place)
        self.trunk = self._trunk(stage.inlets[inlet].place)
        last = self.places[self.trunk[-1]]
        self.paths = [self._path(child) for child in last.children]
        ends = [path.end for path in self.paths if path.end is not None]
        parted = isinstance(last.operator, Split)
        exact = parted or all(self._folds(end) or self._writes(end) for end in ends)
        self.handed = {end for end in ends if not (self._folds(end) or (exact and self._writes(end)))}
        spans = [f"low{end} = high{end}" for end in ends if self._folds(end)]
        self.forget = " = ".join([*spans, "FAR"]) if spans else ""
        rekeyed = any(isinstance(self._op(number), KeyBy) for number in self.trunk)
        self.needs_key = any(
            isinstance(self._op(number), Keyed) for path in self.paths for number in (*self.trunk, *path.chain)
        ) or not all(
            rekeyed or any(isinstance(self._op(number), KeyBy) for number in path.chain) for path in self.paths
        )
        self.has_key = rekeyed or self.needs_key
        self.needs_place = False
        self._body(parted=parted)
        self.source = self._whole()

    # the shape

    def _reachable(self, first: int) -> set[int]:
        """Every node that a record of this inlet may come to."""
        reached, ahead = set[int](), [first]
        while ahead:
            number = ahead.pop()
            if number not in reached:
                reached.add(number)
                ahead += self.places[number].children
        return reached

    def _inlines(self, number: int) -> bool:
        """Whether a node can be a part of the loop: not where ways meet again, for there one record is several."""
        meeting = len(self.reached.intersection(self.places[number].parents)) > 1
        return not meeting and isinstance(self._op(number), Map | Filter | KeyBy | Keyed | Pass | Branch)

    def _trunk(self, first: int) -> tuple[int, ...]:
        chain = [first]
        while len(children := self.places[chain[-1]].children) == 1 and not isinstance(self._op(chain[-1]), Split):
            if not self._inlines(children[0]) and not isinstance(self._op(children[0]), Split):
                break
            chain.append(children[0])
        return tuple(chain)

    def _path(self, number: int) -> _Path:
        chain: list[int] = []
        while self._inlines(number) and len(self.places[number].children) <= 1:
            chain.append(number)
            if not self.places[number].children:
                return _Path(tuple(chain), None)
            number = self.places[number].children[0]
        return _Path(tuple(chain), number)

    def _op(self, number: int) -> Any:
        return self.places[number].operator

    def _folds(self, number: int) -> bool:
        return isinstance(self._op(number), WindowAggregate) and not self._op(number).updates

    def _writes(self, number: int) -> bool:
        return _is_plain(self._op(number)) or isinstance(self._op(number), Cross)

    # names

    def _bind(self, stem: str, what: Any) -> str:
        """A global of the loop for something, the same one for the same thing."""
        for name, known in self.names.items():
            if known is what and name.rstrip("0123456789") == stem:
                return name
        name = f"{stem}{sum(known.rstrip('0123456789') == stem for known in self.names) + 1}"
        self.names[name] = what
        return name

    def _begin(self, *lines: str) -> None:
        """Statements in front of the loop, each once."""
        self.start |= dict.fromkeys(lines)

    def _counter(self, name: str) -> str:
        self._begin(f"{name} = 0")
        return name

    def _tally(self, number: int, entered: str, left: str) -> None:
        self.tallies.append(f"task.tally({self.places[number].name!r}, {entered}, {left})")

    # the body

    def _body(self, *, parted: bool) -> None:
        entered = "n - handed"
        for number in self.trunk[:-1] if parted else self.trunk:
            entered = self._pass(number, entered)
        if parted:
            self._one_of_several(entered)
        elif len(self.paths) == 1:
            self._only(self.paths[0], entered, lambda: None)
        else:
            self._all_of_several(entered)

    def _pass(self, number: int, entered: str) -> str:
        """One stateless node of which nothing is to be undone later; answers with what left it."""
        left = entered
        if isinstance(self._op(number), Filter):
            gone = self._counter(f"gone{number}")
            left = f"{entered} - {gone}"
            with self.text.block(f"if not {self._bind('filter', self._op(number).f)}(v):"):
                self.text.say(f"{gone} += 1", "continue")
        else:
            self._change(number, "v", "k")
        self._tally(number, entered, left)
        return left

    def _change(self, number: int, v: str, k: str) -> None:
        """What a node that lets every record through does to value and key."""
        match self._op(number):
            case Map(f):
                self.text.say(f"{v} = {self._bind('map', f)}({v})")
            case KeyBy(f):
                self.text.say(f"{k} = {self._bind('key', f)}({v})", f"if {k} is None: raise Aside")
            case Keyed():
                self.text.say(f"if {k} is None: raise Aside")

    def _only(self, path: _Path, entered: str, took: Callable[[], None]) -> None:
        """The one way that a record takes; `took` says so, once nothing can fail any more."""
        for number in path.chain:
            entered = self._pass(number, entered)
        if path.end is None:
            took()
        elif path.end in self.handed:
            self._begin(f"site{path.end} = task.sites[{path.end}]")
            self._push(f"((site{path.end}, v, k),)")
            took()
            self._settle_pushed()
        else:
            self._evaluate(path.end, "v", "k")
            took()
            self._assign(path.end, entered)

    def _one_of_several(self, entered: str) -> None:
        """A split: the first branch whose predicate holds gets the record."""
        split = self.trunk[-1]
        lost = self._counter(f"lost{split}")
        self._tally(split, entered, f"{entered} - {lost}")
        self.tallies.append(f"task.unmatched({self.places[split].name!r}, {lost})")
        for order, ((_, f), path) in enumerate(zip(self._op(split).branches, self.paths, strict=True)):
            took = self._counter(f"took{order}")
            with self.text.block(f"{'elif' if order else 'if'} {self._bind('when', f)}(v):"):
                gone = [number for number in path.chain if isinstance(self._op(number), Filter)]
                count = " + ".join([took, *(f"gone{number}" for number in gone)])
                self._only(path, f"({count})" if gone else took, lambda took=took: self.text.say(f"{took} += 1"))  # type: ignore[misc]
        with self.text.block("else:"):
            self.text.say(f"{lost} += 1")

    def _all_of_several(self, entered: str) -> None:
        """Several branches get the record: all are evaluated before anything is assigned or counted."""
        settled: list[tuple[int, _Path, list[int], str]] = []
        for path in self.paths:
            branch = (*path.chain, path.end)[0]
            assert branch is not None
            gates = [number for number in path.chain if isinstance(self._op(number), Filter)]
            left = entered
            self.text.say(f"v{branch} = v", f"k{branch} = k" if self.has_key else "")
            with ExitStack() as blocks:
                for number in path.chain:
                    left = self._branched(number, branch, left, blocks)
                if path.end is not None and path.end not in self.handed:
                    self._evaluate(path.end, f"v{branch}", f"k{branch}")
                self.text.say(f"at{branch} = -1" if gates else "")
            settled.append((branch, path, gates, left))
        self._push_all(settled)
        for branch, path, gates, left in settled:
            if path.end is not None and path.end not in self.handed:
                with self.text.block(f"if at{branch} < 0:") if gates else nullcontext():
                    self._assign(path.end, left)
            self.text.say(*(f"if at{branch} == {number}: gone{number} += 1" for number in gates))
        if self.handed:
            self._settle_pushed()

    def _branched(self, number: int, branch: int, entered: str, blocks: ExitStack) -> str:
        """One stateless node of a branch, whose variables bear the branch's number; answers with what left it."""
        left = entered
        if isinstance(self._op(number), Filter):
            left = f"{entered} - {self._counter(f'gone{number}')}"
            self.text.say(f"at{branch} = {number}")
            blocks.enter_context(self.text.block(f"if {self._bind('filter', self._op(number).f)}(v{branch}):"))
        else:
            self._change(number, f"v{branch}", f"k{branch}")
        self._tally(number, entered, left)
        return left

    def _push_all(self, settled: list[tuple[int, _Path, list[int], str]]) -> None:
        """Nodes that are no part of the loop get their records, all of them or none."""
        given = [(branch, path, gates) for branch, path, gates, _ in settled if path.end in self.handed]
        if not given:
            return
        shares = []
        for branch, path, gates in given:
            self._begin(f"site{path.end} = task.sites[{path.end}]")
            one = f"((site{path.end}, v{branch}, k{branch}),)"
            shares.append(f"({one} if at{branch} < 0 else ())" if gates else one)
        self._push(" + ".join(shares))

    def _push(self, shares: str) -> None:
        """Hand records to nodes outside the loop, which must see W where it is; if they fail, none of it stands."""
        if self.moving:
            with self.text.block("if top > time.top:"):
                self.text.say(*self._flow("top"))
        with self.text.block(f"if not task.push(number, index(), {shares}):"):
            self.text.say("handed += 1", self.forget, "continue")

    def _settle_pushed(self) -> None:
        """Nodes outside the loop may have put cells: some are due by now, or sooner than what is open here."""
        with self.text.block("if task.is_due():"):
            self.text.say(*self._flow("top"))
        if self.moving:
            with self.text.block("else:"):
                self.text.say("due = task.due() + disorder")

    def _flow(self, to: str) -> list[str]:
        return [f"due = flow({to})", "watermark = combined.watermark" if self.moving else "", self.forget]

    # ends

    def _evaluate(self, end: int, v: str, k: str) -> None:
        if self._folds(end):
            _Fold(self, end, self.places[end]).evaluate(v, k)
            return
        self._begin("encode, encode_key, bounds = task.writer")
        if isinstance(self._op(end), Cross):
            self.needs_place = True
            self._begin(f"out{end} = task.crossings[{self._op(end).topic!r}]")
            self.text.say(f"kb{end} = encode_key({k})", f"row{end} = new(Crossing, ({k}, {v}, ts, h, p, kb{end}))")
            return
        topic = self._op(end).topic
        self._begin(f"out{end} = task.outs[{topic!r}]")
        if self.bounded:
            self._begin(f"most{end}, latest{end} = bounds({topic!r})")
        self.text.say(
            f"if type({v}) is WindowResult: raise Aside",
            f"if ts > latest{end}: raise Aside" if self.bounded else "",
            f"kb{end} = None if {k} is None else encode_key({k})",
            f"b{end} = None if {v} is None else encode({v})",
            f"if b{end} is not None and len(b{end}) > most{end}: raise Aside" if self.bounded else "",
            f"row{end} = new(Emit, (kb{end}, b{end}, ts, h, kb{end}))",
        )

    def _assign(self, end: int, entered: str) -> None:
        if self._folds(end):
            _Fold(self, end, self.places[end]).assign()
            self._tally(end, entered, "0")
        else:
            self.text.say(f"out{end}.append(row{end})")
            self._tally(end, entered, entered)

    # the whole

    def _whole(self) -> str:
        body = "\n".join(self.text.lines)
        columns = {"v": "it", "ts": "batch.times[start:stop]"}
        if self.needs_key:
            columns["k"] = "repeat(None) if batch.keys is None else batch.keys[start:stop]"
        if "ts, h, " in body:
            columns["h"] = "repeat(()) if batch.headers is None else batch.headers[start:stop]"
        if self.needs_place:
            columns["p"] = "task.places(number, start, stop)"
        whole = _Text()
        with whole.block("def loop(task, batch, number, start, stop):"):
            ends = [f"{self.places[p.end].name}: {shown(self._op(p.end))}" for p in self.paths if p.end is not None]
            whole.say(
                '"""' + " -> ".join(self.places[number].name for number in self.trunk),
                *(f"    -> {e}" for e in ends),
                '"""',
            )
            whole.say("time, disorder = task.times[number], task.disorders[task.inputs[number].inlet]")
            whole.say("flow, plain = task.flow_of(number), task.plain_of(number)")
            if self.moving:
                whole.say("combined = task.entries[task.inputs[number].inlet].combined")
                whole.say("top, due, watermark = time.top, task.due() + disorder, combined.watermark")
            else:
                whole.say("top = None")
            whole.say("handed = 0", *self.start, self.forget)
            whole.say("it = iter(batch.values[start:stop]); left = it.__length_hint__; n = stop - start")
            whole.say("index = lambda: stop - left() - 1")
            whole.say(f"records = zip({', '.join(columns.values())})")
            with whole.block("while True:"):
                with whole.block("try:"):
                    with whole.block(f"for {', '.join(columns)} in records:"):
                        if self.moving:
                            with whole.block("if ts > top:"):
                                whole.say("top = ts")
                                with whole.block("if ts >= due:"):
                                    whole.say(*self._flow("ts"))
                        whole.say(*self.text.lines)
                    whole.say("break")
                whole.say("except TaskFailed:", "    raise")
                with whole.block("except Exception:  # costs nothing until it happens"):
                    whole.say("handed += 1", "due = plain(index(), top)")
                    whole.say("watermark = combined.watermark" if self.moving else "", self.forget)
            whole.say("flow(top)" if self.moving else "", *self.tallies)
        return "\n".join(whole.lines) + "\n"


class _Fold:
    """The fold of one windowed aggregate within a loop; its variables bear the number of its node."""

    def __init__(self, loop: _Loop, end: int, place: Place) -> None:
        self.loop = loop
        self.text = loop.text
        self.n = end
        self.name = place.name
        self.window: FixedWindow = place.operator.window
        self.foldings: tuple[Folding, ...] = place.operator.folds.foldings
        self.steps = [j for j, folding in enumerate(self.foldings) if folding.code is None or folding.code.step]
        self.mutated = [j for j in range(len(self.foldings)) if j not in self.steps]

    def evaluate(self, v: str, k: str) -> None:
        """Everything that may raise: the verdict first, then what the aggregates take, then new accumulators."""
        n, say = self.n, self.text.say
        self.loop._begin(f"cells{n} = task.sites[{n}].cells[0]", f"fresh{n} = cells{n}.fresh", f"opened{n} = 0")  # noqa: SLF001
        if not self.loop.moving:
            self.loop._begin(f"watermark{n} = task.sites[{n}].watermark")  # noqa: SLF001
        with self.text.block(f"if not low{n} <= ts < high{n}:  # another window than that of the record before"):
            if isinstance(self.window, Tumbling):
                self._find_one(self.window)
            else:
                self._find_all()
        say(f"i{n} = {k} if type({k}) is str else key_id(task.writer.key({k}))")
        for j, folding in enumerate(self.foldings):
            if take := self._take(folding, v):
                say(f"x{n}_{j} = {take}")
        if isinstance(self.window, Tumbling):
            say(f"a{n} = touched{n}(i{n})")
            self._changed(k, f"before{n}")
        else:
            say(f"todo{n} = []")
            with self.text.block(f"for close{n}, cell{n}, before{n} in pane{n}:"):
                say(f"a{n} = cell{n}.get(i{n})", f"e{n} = None", f"was{n} = False")
                say(*(f"t{n}_{j} = None" for j in self.steps))
                self._changed(k, f"before{n}")
                say(f"todo{n}.append(({', '.join(self._carried())}))")

    def assign(self) -> None:
        """Nothing here can raise."""
        if isinstance(self.window, Tumbling):
            self._put()
        else:
            with self.text.block(f"for {', '.join(self._carried())} in todo{self.n}:"):
                self._put()
        if (tally := f"task.opened({self.name!r}, opened{self.n})") not in self.loop.tallies:
            self.loop.tallies.append(tally)

    def _carried(self) -> list[str]:
        n = self.n
        return [f"close{n}", f"cell{n}", f"a{n}", f"e{n}", f"was{n}", *(f"t{n}_{j}" for j in self.steps)]

    def _watermark(self) -> str:
        return "max(top - disorder, watermark)" if self.loop.moving else f"watermark{self.n}"

    def _find_one(self, window: Tumbling) -> None:
        n, say = self.n, self.text.say
        shift = f"(ts - {window.offset})" if window.offset else "ts"
        say(f"low{n} = ts - {shift} % {window.size}", f"high{n} = low{n} + {window.size}")
        say(f"close{n} = high{n} + {window.grace}" if window.grace else f"close{n} = high{n}")
        say(f"if close{n} <= {self._watermark()}: raise Aside  # closed: the record is late")
        say(f"cell{n} = fresh{n}.get(close{n})")
        say(f"if cell{n} is None: cell{n} = {{}}  # joins the overlay with its first record")
        say(f"touched{n}, before{n} = cell{n}.get, cells{n}.committed(close{n})")

    def _find_all(self) -> None:
        n, say = self.n, self.text.say
        windows = self.loop._bind("window", self.window)  # noqa: SLF001
        say(f"low{n}, high{n} = {windows}.span(ts)", f"pane{n} = []", f"w{n} = {self._watermark()}")
        with self.text.block(f"for end{n} in {windows}.ends(ts):"):
            say(f"close{n} = end{n} + {self.window.grace}")
            say(f"if close{n} <= w{n}: raise Aside  # this one is closed")
            say(f"cell{n} = fresh{n}.get(close{n})", f"if cell{n} is None: cell{n} = {{}}")
            say(f"pane{n}.append((close{n}, cell{n}, cells{n}.committed(close{n})))")
        say(f"if not pane{n}: raise Aside  # a gap")

    def _changed(self, k: str, before: str) -> None:
        """The new entry e, or new accumulators t for the entry a that was touched before."""
        n, say = self.n, self.text.say
        with self.text.block(f"if a{n} is None:  # not touched since the last commit"):
            say(f"e{n} = {before}(i{n})", f"was{n} = e{n} is None")
            with self.text.block(f"if was{n}:"):
                say(f"e{n} = [{k}, {', '.join(self._first(f, f'x{n}_{j}') for j, f in enumerate(self.foldings))}]")
            with self.text.block("else:  # a copy, for what is committed is never written through"):
                renewed = [
                    self._filled(f, "copy", a=f"e{n}[{j + 1}]")
                    if j in self.mutated
                    else self._next(f, f"e{n}[{j + 1}]", f"x{n}_{j}")
                    for j, f in enumerate(self.foldings)
                ]
                say(f"e{n} = [e{n}[0], {', '.join(renewed)}]")
                say(
                    *(self._filled(self.foldings[j], "mutate", a=f"e{n}[{j + 1}]", x=f"x{n}_{j}") for j in self.mutated)
                )
        if self.steps:
            with self.text.block("else:"):
                say(*(f"t{n}_{j} = {self._next(self.foldings[j], f'a{n}[{j + 1}]', f'x{n}_{j}')}" for j in self.steps))

    def _put(self) -> None:
        n, say = self.n, self.text.say
        with self.text.block(f"if a{n} is None:"):
            with self.text.block(f"if not cell{n}:"):
                say(f"cells{n}.join(close{n}, cell{n})")
                if self.loop.moving:
                    say(f"if close{n} + disorder < due: due = close{n} + disorder")
            say(f"cell{n}[i{n}] = e{n}", f"opened{n} += was{n}")
        with self.text.block("else:"):
            say(*(f"a{n}[{j + 1}] = t{n}_{j}" for j in self.steps))
            say(*(self._filled(self.foldings[j], "mutate", a=f"a{n}[{j + 1}]", x=f"x{n}_{j}") for j in self.mutated))

    # aggregates as source

    def _filled(self, folding: Folding, part: str, **given: str) -> str:
        assert folding.code is not None
        names = {name: self.loop._bind(name, what) for name, what in folding.code.names.items()}  # noqa: SLF001
        template: str = getattr(folding.code, part)
        self.loop.needs_place |= "{pos}" in template
        return template.format_map({"at": "ts", "pos": "p", **names, **given})

    def _take(self, folding: Folding, v: str) -> str:
        if folding.code is not None:
            return self._filled(folding, "take", v=v) if folding.code.take else ""
        return f"{self.loop._bind('item', folding.item)}({v}, ts, None)"  # noqa: SLF001

    def _first(self, folding: Folding, x: str) -> str:
        if folding.code is not None:
            return self._filled(folding, "first", x=x)
        add, zero = self.loop._bind("add", folding.add), self.loop._bind("zero", folding.zero)  # noqa: SLF001
        return f"{add}({zero}(), {x})"

    def _next(self, folding: Folding, a: str, x: str) -> str:
        if folding.code is not None:
            return f"{self._filled(folding, 'step', a=a, x=x)}"
        return f"{self.loop._bind('add', folding.add)}({a}, {x})"  # noqa: SLF001
