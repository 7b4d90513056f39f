"""The life of one client request and its response.

An ``Exchange`` stands between two sides that know nothing of each other: the ``Downstream`` (an
HTTP/1.1 connection of the edge, or an ASGI server that mounted us) and the ``Attempt`` (a
connection to an instance, or a local application). Its life:

1. the downstream read a head and asks its ``Dispatcher`` for a plan; the exchange begins;
2. the hooks of the plan run in order (*request phase*), without a task until one awaits;
3. the plan's handler starts an attempt, or answers itself;
4. request content flows through ``on_request_data`` to the attempt, held until there is one;
5. the response head arrives; hooks run in reverse (*response phase*) for those that ran in step 2;
6. the head goes downstream, content follows with back-pressure both ways;
7. both ends are complete: the exchange is logged and the downstream reads its next head.

Whatever fails, exactly one of these happens: an answer with a problem (nothing was sent yet), or a
visibly broken message (something was). No step creates a task unless something awaits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, cast

from nexgate.errors import Cause, Refused
from nexgate.exchange._errors import BodyTooLarge, ClientGone
from nexgate.exchange._incoming import HELD_BYTES, Incoming
from nexgate.exchange._plan import Hook, Plan
from nexgate.exchange._request import Request
from nexgate.exchange._response import Response
from nexgate.exchange._sides import Failure, TunnelEnd
from nexgate.http import Field, ResponseHead
from nexgate.problem import problem_content

__all__ = ["Exchange"]

_log = logging.getLogger("nexgate")


class Exchange(Incoming):
    """See the module's docstring. One object per request."""

    __slots__ = ()

    # ---------------------------------------------------------------- request phase

    @property
    def request(self) -> Request:
        request = self._request
        if request is None:
            request = self._request = Request(self)
        return request

    def begin(self, plan: Plan) -> None:
        """Steps 2 and 3 of the module's docstring."""
        self.plan = plan
        limit = plan.max_body_bytes
        if limit is not None and (self.head.content_length or 0) > limit:
            self.fail(Cause.BODY_TOO_LARGE, f"the limit is {limit} bytes")
            return
        if plan.total_timeout is not None:
            self.down.wheel.set(self, self.started + plan.total_timeout)
        if plan.hooks:
            self._run_request_hooks()
        else:
            self._start()

    def _run_request_hooks(self) -> None:
        hooks = self.plan.hooks
        while self._depth < len(hooks):
            hook = hooks[self._depth]
            self._depth += 1
            if hook.around is not None:
                self._spawn(self._run_around(hook, self._depth - 1, self._epoch))
                return
            if hook.on_request is None:
                continue
            try:
                result = hook.on_request(self)
            except Exception as error:
                self._depth -= 1
                self._hook_failed(hook, error)
                return
            if result is None:
                continue
            if isinstance(result, Response):
                self._depth -= 1
                self.respond(result)
                return
            self._spawn(self._await_request(hook, result, self._epoch), result)
            return
        self._start()

    def _start(self) -> None:
        """Step 3; for a route that buffers requests, once there is enough of this one."""
        enough = self.plan.request_buffer_bytes
        if enough and not self.request_complete and self._held_bytes < enough:
            self._collecting = enough
            self._want_content()
        else:
            self.plan.handler.start(self)

    def _collected(self) -> None:
        self._collecting = 0
        self.plan.handler.start(self)

    async def _await_request(
        self, hook: Hook, waiting: Awaitable[Response | None], epoch: int
    ) -> None:
        try:
            result = await waiting
        except Exception as error:
            if not self.ended and epoch == self._epoch:
                self._depth -= 1
                self._hook_failed(hook, error)
            return
        if self.ended or epoch != self._epoch:
            return
        if result is None:
            self._run_request_hooks()
        else:
            self._depth -= 1
            self.respond(result)

    async def _run_around(self, hook: Hook, index: int, epoch: int) -> None:
        async def call_next(request: Request) -> Response:
            nonlocal epoch
            if self._around and self._around[-1][0] == index:
                raise RuntimeError("call_next can be awaited once")
            if self.ended or epoch != self._epoch:
                raise RuntimeError("the exchange has been answered meanwhile")
            future: asyncio.Future[Response] = self.down.loop.create_future()
            if self._around is None:
                self._around = []
            self._around.append((index, future))
            self._run_request_hooks()
            response = await future
            epoch = self._epoch  # a failure further in is an answer like any other
            return response

        assert hook.around is not None
        try:
            response = await hook.around(self, call_next)
            if not isinstance(response, Response):
                raise TypeError(f"{hook.name} returned {type(response).__name__}, not a Response")
        except Exception as error:
            if not self.ended and epoch == self._epoch:
                self._abandon_attempt()
                self._depth = index
                self._drop_around(index)
                self._hook_failed(hook, error)
            return
        if self.ended or epoch != self._epoch:
            return
        self._drop_around(index)
        if self._depth > index and response is not self.response:
            # It answered without waiting for call_next: nothing further in has a say any more,
            # be it a filter that awaits or an attempt that waits for its connection.
            self._epoch += 1
            self._abandon_attempt()
        self._depth = index
        self.respond(response)

    def _drop_around(self, index: int) -> None:
        if self._around is not None:
            for i, future in self._around:
                if i >= index:
                    future.cancel()
            self._around = [entry for entry in self._around if entry[0] < index]

    def _hook_failed(self, hook: Hook, error: Exception) -> None:
        if isinstance(error, Refused):
            self.fail(error.cause, error.detail)
            return
        _log.error(
            "filter %s failed on %s %s (request %s)",
            hook.name,
            self.method.decode("latin-1"),
            self.path.decode("latin-1"),
            self.id.decode("latin-1"),
            exc_info=error,
        )
        self.fail(Cause.FILTER_FAILED)

    def _spawn(self, coroutine: Any, waiting: Any = None) -> None:
        """Go on in a task; ``waiting`` is what the coroutine will await, if that is known."""
        # Until it begins the event loop holds it, and afterwards we do, for cancelling.
        self.down.loop.create_task(self._guard(coroutine, waiting))

    async def _guard(self, coroutine: Any, waiting: Any) -> None:
        if self.ended:  # before this began, in the same turn of the loop
            coroutine.close()
            if asyncio.iscoroutine(waiting):
                waiting.close()
            return
        tasks = self._tasks
        if tasks is None:
            tasks = self._tasks = set()
        # Not in a variable: a task that is cancelled keeps its frame, which would keep the task.
        tasks.add(cast("asyncio.Task[None]", asyncio.current_task(self.down.loop)))
        try:
            await coroutine
        except Exception as error:  # a defect of ours, not of the hook: hooks are guarded above
            _log.exception("an exchange failed")
            if not self.ended:
                self._abandon_attempt()
                self.fail(Cause.INTERNAL)
            del error
        finally:
            tasks.discard(cast("asyncio.Task[None]", asyncio.current_task(self.down.loop)))
            if not self.ended and self.head_sent:
                self.down.flush()

    def attempt_failed(self, instance: Any, failure: Failure) -> None:
        """``instance`` failed and has let go. Before the client has seen anything of an answer, the
        caller may try again.
        """
        self.attempt = None
        caller = self.caller
        if caller is not None and self.response is None and not self.ended:
            caller.attempt_failed(self, instance, failure)
        else:
            self.on_failed(failure.cause, failure.detail, failure.retry_after)

    # ---------------------------------------------------------------- response

    def on_interim(self, status: int, fields: list[Field]) -> None:
        """A 1xx of the service other than 101 (RFC 9110 §15.2: a proxy MUST forward)."""
        if not self.head_sent and not self.head.http10:
            self.down.send_interim(status, fields)

    def on_response(self, response: Response) -> None:
        """Step 5: the attempt has a response head."""
        self.response = response
        self.cause = None  # of an earlier attempt that this one made good
        if self._depth:
            self._run_response_hooks(response)
        else:
            self._send(response)

    def on_whole_response(self, head: ResponseHead, body: bytes) -> None:
        """Head and content arrived together, and the attempt has let go: steps 5 to 7 at once."""
        # Before anything is written: a client that fills up pauses what ``attempt`` points at.
        self.attempt = None
        if not self._depth and self.down.send_whole(self, head, body):
            self.cause = None
            self.status = head.status
            self.bytes_out = len(body)
            self.head_sent = self.response_complete = True
            if self._tasks or self._slot >= 0 or self.call is not None:
                self._end()
            else:  # the rest of _end has nothing to do here
                self.ended = True
                self._held = None
                self.down.exchange_ended(self)
            return
        self._response_end = []
        if body:
            self._held_response = [body]
        self.on_response(Response.streaming(self, head))
        if self.head_sent and not self.ended:
            self.down.flush()

    def respond(self, response: Response) -> None:
        """Answer with a response of the gateway's own (or with one that a hook returned)."""
        self._collecting = 0
        self.response = response
        if self._depth:
            self._run_response_hooks(response)
        else:
            self._send(response)

    def fail(self, cause: Cause, detail: str = "", retry_after: float | None = None) -> None:
        """Answer with the problem of ``cause``; if the response has begun, break it off visibly."""
        if self.ended:
            return
        self._epoch += 1
        self.cause = cause
        self.detail = detail
        if self.head_sent:
            self._abandon_attempt()
            if not self.down.take_back_head():
                self.down.break_off()
                self._end()
                return
            self.head_sent = False
        self._held_response = None
        content_type, body = problem_content(
            cause, detail, self.id.decode("latin-1"), self.header_values(b"accept")
        )
        response = Response(cause.status, body, content_type=content_type)
        response.headers.set("Cache-Control", "no-store")
        if retry_after is not None:
            response.headers.set("Retry-After", str(max(1, round(retry_after))))
        self.respond(response)

    def _run_response_hooks(self, response: Response) -> None:
        hooks = self.plan.hooks
        while self._depth:
            self._depth -= 1
            hook = hooks[self._depth]
            if hook.around is not None:
                if self._around and self._around[-1][0] == self._depth:
                    future = self._around[-1][1]
                    self.response = response
                    if not future.done():
                        future.set_result(response)
                    return
                continue
            if hook.on_response is None:
                continue
            try:
                result = hook.on_response(self, response)
            except Exception as error:
                self._abandon_attempt()
                self._hook_failed(hook, error)
                return
            if result is None:
                continue
            if isinstance(result, Response):
                response = self.response = result
                continue
            self._spawn(self._await_response(hook, result, response, self._epoch), result)
            return
        self._send(response)

    async def _await_response(
        self,
        hook: Hook,
        waiting: Awaitable[Response | None],
        response: Response,
        epoch: int,
    ) -> None:
        try:
            result = await waiting
        except Exception as error:
            if not self.ended and epoch == self._epoch:
                self._abandon_attempt()
                self._hook_failed(hook, error)
            return
        if self.ended or epoch != self._epoch:
            return
        if result is not None:
            response = self.response = result
        self._run_response_hooks(response)

    def _send(self, response: Response) -> None:
        """Step 6."""
        if self.ended or self.head_sent:
            return
        if response.body is None and self._failure is not None:
            # The content never came whole, and the filter that learnt of it went on all the same.
            cause, detail = self._failure
            self._failure = None
            self.fail(cause, detail)
            return
        self.response = response
        self.status = response.status
        down = self.down
        far = self._upgrade_far
        if far is not None:
            if response.status == 101:
                self.head_sent = True
                down.open_tunnel(self, response, far)
                return
            self._upgrade_far = None
            far.tunnel_lost()
        self.head_sent = True
        body = response.body
        if body is not None:
            self._abandon_attempt()
            self._held_response = None
            down.send_head(self, response)
            if body and self.method != b"HEAD":
                self.bytes_out += len(body)
                down.send_body(body)
            self.response_complete = True
            down.send_end([])
            self._end_if_complete()
            return
        down.send_head(self, response)
        held = self._held_response
        if held is not None:
            self._held_response = None
            for data in held:
                self.bytes_out += len(data)
                down.send_body(data)
        if self._response_end is not None:
            self._finish_response(self._response_end)
        elif self.attempt is not None and down.is_writable:
            self.attempt.resume_response()

    def on_response_data(self, data: bytes) -> None:
        """Content from the service: passed on, or held while hooks await."""
        if self.head_sent:
            self.bytes_out += len(data)
            self.down.send_body(data)
            return
        held = self._held_response
        if held is None:
            held = self._held_response = []
        held.append(data)
        limit = HELD_BYTES
        if self._collector is not None:
            limit = self.plan.max_buffered_body_bytes
            if sum(map(len, held)) > limit:
                self._settle_collector(error=BodyTooLarge(limit, Cause.RESPONSE_TOO_LARGE))
                return
        elif self.attempt is not None and sum(map(len, held)) > limit:
            self.attempt.pause_response()

    def on_response_end(self, trailers: list[Field]) -> None:
        """The service's message is complete; the attempt has let go of the exchange."""
        self.attempt = None
        if self.head_sent:
            self._finish_response(trailers)
            return
        self._response_end = trailers
        if self._collector is not None:
            self._settle_collector(self._held_response)

    def _finish_response(self, trailers: list[Field]) -> None:
        self.response_complete = True
        self.down.send_end(trailers)
        self._end_if_complete()

    async def collect_response(self) -> bytes:
        if self.head_sent:
            raise RuntimeError("the response has been sent")
        held = b"".join(self._held_response or ())
        if len(held) > self.plan.max_buffered_body_bytes:
            raise BodyTooLarge(self.plan.max_buffered_body_bytes, Cause.RESPONSE_TOO_LARGE)
        if self._failure is not None:
            raise Refused(*self._failure)
        if self._response_end is not None or self.attempt is None:
            return held
        self._collector = self.down.loop.create_future()
        self.attempt.resume_response()
        return await asyncio.shield(self._collector)

    def on_upgraded(self, response: Response, far: TunnelEnd) -> None:
        """The service switched protocols: 101 passes the response phase, then the tunnel opens."""
        self._upgrade_far = far
        self.attempt = None
        self.on_response(response)

    def on_failed(self, cause: Cause, detail: str = "", retry_after: float | None = None) -> None:
        """The attempt failed for good and has let go of the exchange."""
        self.attempt = None
        if self._collector is not None:
            # A filter awaits content that will not come: it learns why, and the client too.
            self._failure = cause, detail
            self._settle_collector(error=Refused(cause, detail))
            return
        self.fail(cause, detail, retry_after)

    # ---------------------------------------------------------------- flow and end

    def on_writable(self, writable: bool) -> None:
        """The client's side filled up or drained."""
        attempt = self.attempt
        if attempt is not None:
            if writable:
                attempt.resume_response()
            else:
                attempt.pause_response()

    def on_client_gone(self) -> None:
        """The client closed its connection: whatever is under way for it is cancelled."""
        if self.ended:
            return
        if not self.response_complete:
            self.status = self.status or 499
            self.cause = self.cause or None
        self._abandon_attempt()
        far = self._upgrade_far
        if far is not None:
            self._upgrade_far = None
            far.tunnel_lost()
        if self._collector is not None:
            self._settle_collector(error=ClientGone("the client went away"))
        self._end()

    def on_deadline(self, now: float) -> None:
        """The total time is over."""
        if self.caller is not None and self.response is None:
            self.caller.timed_out(self)
        self._abandon_attempt()
        self.fail(Cause.TOTAL_TIMEOUT)
        if not self.ended:
            self.down.flush()

    def _abandon_attempt(self) -> None:
        if self.call is not None:
            self.call.abandon()
        attempt = self.attempt
        if attempt is not None:
            self.attempt = None
            attempt.cancel()
        elif self.instance is not None:
            self.instance.finished(self)  # it waits for a connection

    def _end_if_complete(self) -> None:
        if self.response_complete:
            # An early response may leave request content unread: the downstream deals with that.
            self._end()

    def tunnel_closed(self) -> None:
        """The tunnel that this exchange became has ended."""
        self._end()

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self.attempt is not None or self.instance is not None:
            self._abandon_attempt()
        if self.call is not None:
            self.call.ended()
        if self._slot >= 0:
            self.down.wheel.forget(self)
        if self._tasks:
            current = asyncio.current_task(self.down.loop)
            for task in list(self._tasks):
                if task is not current:
                    task.cancel()
        # Nothing may keep the exchange alive from inside: the cycle collector runs rarely.
        self.response = self._request = self._held = self._held_response = None
        self._replay = self.call = None
        self.down.exchange_ended(self)
