"""Any sequence of calls, clocks and operators: the circuit does what a naive model says.

The model keeps every call and every trial as an object and looks through all of them for each
question; it shares nothing with the circuit but the definition.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nexgate.resilience import CircuitBreaker, CircuitConfig, CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN, DISABLED = CircuitState.FORCED_OPEN, CircuitState.DISABLED
METRICS_ONLY = CircuitState.METRICS_ONLY


@dataclass(eq=False)
class Call:
    """One call that was admitted; ``life`` is the state period it was admitted in."""

    life: object
    permit: int
    outcome: bool | None = None
    is_slow: bool = False


@dataclass
class Model:
    config: CircuitConfig
    state: CircuitState = CLOSED
    life: object = field(default_factory=object)
    history: list[tuple[int, bool, bool]] = field(default_factory=list)  # (bucket, ok, slow)
    anchor: float | None = None
    bucket: int = 0
    row: int = 0
    trials: list[Call] = field(default_factory=list)
    last_trial: float = 0.0
    opened_at: float = 0.0
    length: float = 0.0
    times: int = 0

    def become(self, state: CircuitState) -> None:
        self.state, self.life, self.trials = state, object(), []
        if state in (CLOSED, DISABLED, METRICS_ONLY):
            self.history, self.anchor, self.row, self.times = [], None, 0, 0

    def open(self, now: float) -> None:
        config = self.config
        self.length = min(
            config.recovery_timeout * config.backoff**self.times,
            max(config.max_recovery_timeout, config.recovery_timeout),
        )
        self.times += 1
        self.opened_at = now
        self.become(OPEN)

    def admits(self, now: float) -> bool:
        if self.state is OPEN:
            self.opened_at = min(self.opened_at, now)
            if now >= self.opened_at + self.length:
                self.become(HALF_OPEN)
        if self.state is HALF_OPEN:
            if len(self.trials) < self.config.half_open_calls:
                self.last_trial = now
                return True
            self.last_trial = min(self.last_trial, now)
            timeout = self.config.half_open_timeout
            if timeout is not None and now - self.last_trial >= timeout:
                self.open(now)
        return self.state in (CLOSED, DISABLED, METRICS_ONLY)

    def look(self, now: float) -> list[tuple[int, bool, bool]]:
        """The calls in the window."""
        config = self.config
        if config.window_calls:
            return self.history[-config.window_calls :]
        width = (config.window_seconds or 10.0) / 10
        if self.anchor is None:
            self.anchor, self.bucket = now, 0
        moved = int((now - self.anchor) // width) - self.bucket
        if abs(moved) >= 10:
            self.anchor, self.bucket, self.history = now, 0, []
        elif moved > 0:
            self.bucket += moved
        return [call for call in self.history if call[0] > self.bucket - 10]

    def ended(self, call: Call, ok: bool, is_slow: bool, now: float) -> None:
        if call.life is not self.life or call.outcome is not None or self.state is DISABLED:
            return
        call.outcome, call.is_slow = ok, is_slow
        self.row = 0 if ok else self.row + 1
        config = self.config
        if self.state is HALF_OPEN:
            done = [trial for trial in self.trials if trial.outcome is not None]
            failed = sum(not trial.outcome for trial in done)
            slow = sum(trial.is_slow for trial in done)
            if (failed and failed / config.half_open_calls >= (config.failure_ratio or 0)) or (
                config.slow_call_ratio and slow / config.half_open_calls >= config.slow_call_ratio
            ):
                self.open(now)
            elif len(done) == config.half_open_calls:
                self.become(CLOSED)
            return
        self.look(now)
        self.history.append((self.bucket, ok, is_slow))
        if self.state is not CLOSED:
            return
        seen = self.look(now)
        is_known = len(seen) >= min(config.minimum_calls, config.window_calls or 10**9)
        ratios = [
            (config.failure_ratio, sum(not ok for _, ok, _ in seen)),
            (config.slow_call_ratio, sum(slow for _, _, slow in seen)),
        ]
        by_ratio = is_known and any(r is not None and n / len(seen) >= r for r, n in ratios)
        by_row = config.failure_threshold is not None and self.row >= config.failure_threshold
        if by_ratio or (by_row and not ok):
            self.open(now)


CONFIGS = st.builds(
    CircuitConfig,
    failure_threshold=st.integers(1, 4),
    recovery_timeout=st.sampled_from([1.0, 4.0]),
    half_open_calls=st.integers(1, 3),
    failure_ratio=st.sampled_from([None, 0.25, 0.5, 1.0]),
    slow_call_ratio=st.sampled_from([None, 0.5, 1.0]),
    slow_call=st.just(1.0),
    minimum_calls=st.integers(1, 6),
    window_calls=st.just(None),
    window_seconds=st.sampled_from([None, 10.0, 2.5]),
    max_recovery_timeout=st.just(16.0),
    jitter=st.just(0.0),
    half_open_timeout=st.sampled_from([None, 8.0]),
)
BY_COUNT = st.builds(
    CircuitConfig,
    failure_threshold=st.sampled_from([None, 3, 100]),
    recovery_timeout=st.just(2.0),
    half_open_calls=st.integers(1, 4),
    failure_ratio=st.sampled_from([0.25, 0.5, 1.0]),
    slow_call_ratio=st.sampled_from([None, 0.5]),
    slow_call=st.just(1.0),
    minimum_calls=st.integers(1, 8),
    window_calls=st.integers(1, 6),
    jitter=st.just(0.0),
    half_open_timeout=st.just(8.0),
)


class Circuits(RuleBasedStateMachine):
    @initialize(config=st.one_of(CONFIGS, BY_COUNT))
    def start(self, config: CircuitConfig) -> None:
        self.now = 1024.0
        self.breaker = CircuitBreaker(config, clock=lambda: self.now)
        self.model = Model(config)
        self.calls: list[Call] = []

    @rule()
    def ask(self) -> None:
        expected = self.model.admits(self.now)
        permit = self.breaker.acquire(self.now)
        assert bool(permit) == expected
        if permit:
            call = Call(self.model.life, permit)
            self.calls.append(call)
            if self.model.state is HALF_OPEN:
                self.model.trials.append(call)

    @rule(count=st.integers(2, 12), ok=st.booleans())
    def ask_and_end(self, count: int, ok: bool) -> None:
        for _ in range(count):
            before = len(self.calls)
            self.ask()
            if len(self.calls) > before:
                self.end(-1, ok, 0.5)

    @precondition(lambda self: self.calls)
    @rule(
        which=st.integers(0, 1000), ok=st.booleans(), seconds=st.sampled_from([0.0, 0.5, 1.0, 1.5])
    )
    def end(self, which: int, ok: bool, seconds: float) -> None:
        call = self.calls.pop(which % len(self.calls))
        self.model.ended(call, ok, seconds > 1.0, self.now)
        self.breaker.record(call.permit, ok, seconds, self.now)

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 1000))
    def cancel(self, which: int) -> None:
        call = self.calls.pop(which % len(self.calls))
        if call in self.model.trials:
            self.model.trials.remove(call)
        self.breaker.release(call.permit)

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 1000))
    def forget(self, which: int) -> None:
        self.calls.pop(which % len(self.calls))

    # Multiples of 1/8: every sum is exact, so both sides agree about what "reached" means.
    @rule(eighths=st.one_of(st.integers(0, 40), st.sampled_from([8, 32, 64, 128, 8 * 10**9])))
    def wait(self, eighths: int) -> None:
        self.now += eighths / 8

    @rule(eighths=st.one_of(st.integers(1, 40), st.just(8 * 10**6)))
    def clock_goes_back(self, eighths: int) -> None:
        self.now -= eighths / 8

    @rule(state=st.sampled_from([CLOSED, FORCED_OPEN, DISABLED, METRICS_ONLY]))
    def operate(self, state: CircuitState) -> None:
        self.model.become(state)
        {
            CLOSED: self.breaker.reset,
            FORCED_OPEN: self.breaker.force_open,
            DISABLED: self.breaker.disable,
            METRICS_ONLY: self.breaker.metrics_only,
        }[state]()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        model, statistics = self.model, self.breaker.statistics(self.now)
        assert statistics.state is model.state
        if model.state is not DISABLED:
            assert statistics.failures == model.row
        config = model.config
        if model.state in (CLOSED, METRICS_ONLY):
            if config.has_ratio or config.window_seconds or model.state is METRICS_ONLY:
                seen = model.look(self.now)
                assert statistics.calls == len(seen)
                assert statistics.failed == sum(not ok for _, ok, _ in seen)
                assert statistics.slow == sum(slow for _, _, slow in seen)
        if model.state is HALF_OPEN:
            assert len(model.trials) <= config.half_open_calls
            assert statistics.trials_left == config.half_open_calls - len(model.trials)

    @invariant()
    def is_never_stuck(self) -> None:
        """Whatever happened: ask for long enough, and it tries again (unless told otherwise)."""
        if not hasattr(self, "model") or self.model.state is not OPEN:
            return
        assert self.breaker.retry_after(self.now) <= self.model.config.max_recovery_timeout


TestCircuits = Circuits.TestCase
TestCircuits.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
