"""A server that speaks vLLM's completions as a teacher: what it says is what the same model says here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models

from tutelage import (
    AccessDenied,
    ConfigurationError,
    FileSink,
    FileSource,
    Student,
    Teacher,
    TopK,
    TransportError,
)
from tutelage.integrations.completions import CompletionsTeacher
from tutelage.integrations.transformers import CausalLMTeacher

K = 5
LENGTHS = (6, 1, 9, 3)


class Server:
    """A completions server around a model, on a port of its own. Close it."""

    def __init__(self) -> None:
        self.model = tiny_models.llama()
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        #: Called with an answer before it is sent; may return another, or a status and a text.
        self.change: Callable[[dict[str, Any]], Any] = lambda answer: answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = json.loads(body)
                outer.requests.append((request, dict(self.headers)))
                answer = outer.change(outer.answer(request))
                status, text = answer if isinstance(answer, tuple) else (200, json.dumps(answer))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"{outer.url}/completions")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @torch.no_grad()
    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """As vLLM: the k most probable ids, and the token's own."""
        choices = []
        for index, row in enumerate(request["prompt"]):
            logits = self.model(input_ids=torch.tensor([row]), use_cache=False).logits[0]
            said: list[Any] = [None]
            for token, log_probs in zip(row[1:], logits.log_softmax(-1), strict=False):
                ids = [*log_probs.topk(request["prompt_logprobs"]).indices.tolist(), token]
                said.append(
                    {
                        str(each): {"logprob": float(log_probs[each]), "decoded_token": "?"}
                        for each in ids
                    }
                )
            choices.append({"index": index, "text": "x", "prompt_logprobs": said})
        return {"object": "text_completion", "choices": choices[::-1]}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    try:
        yield made
    finally:
        made.close()


def teacher_of(server: Server, **options: Any) -> CompletionsTeacher:
    return CompletionsTeacher(
        server.url, **{"model": "m", "k": K, "vocabulary": tiny_models.VOCABULARY, **options}
    )


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(tiny_models.VOCABULARY, (n,), generator=generator) for n in LENGTHS]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor(LENGTHS)
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(max(LENGTHS)) < lengths[:, None]).long(),
    }


def learned(path: Path) -> dict[str, Any]:
    student = Student()
    student.register_teacher(FileSource(path))
    with student:
        (found,) = student.knowledge(len(LENGTHS))
    return found


def test_the_knowledge_is_that_of_the_same_model_here(server: Server, tmp_path: Path) -> None:
    remote = teacher_of(server)
    with Teacher(FileSink(tmp_path / "remote.avro"), wire=remote.wire) as teacher:
        teacher.serve(remote, [batch()])
    local = CausalLMTeacher(server.model)
    given = batch()
    # All but each row's first token are learned.
    given["loss_mask"] = given["attention_mask"].clone()
    given["loss_mask"][:, 0] = 0
    with Teacher(FileSink(tmp_path / "local.avro"), wire={"logits": TopK(K)}) as teacher:
        teacher.serve(local, [given])
    found, expected = learned(tmp_path / "remote.avro"), learned(tmp_path / "local.avro")
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["kept"], expected["kept"])
    ours, theirs = found["logits"], expected["logits"]
    assert torch.equal(ours.lengths, torch.tensor(LENGTHS) - 1)
    assert torch.equal(ours.ids, theirs.ids)
    torch.testing.assert_close(ours.log_probs, theirs.log_probs, atol=2e-3, rtol=0)
    torch.testing.assert_close(ours.tail, theirs.tail, atol=1e-3, rtol=1e-3)
    log_probs = server.model(input_ids=given["input_ids"][:1, :6], use_cache=False).logits[0]
    own = log_probs.log_softmax(-1)[torch.arange(5), given["input_ids"][0, 1:6]]
    torch.testing.assert_close(found["token_logprobs"][0, :5], own.detach(), atol=1e-4, rtol=0)
    ((request, _),) = server.requests
    assert request["prompt"] == [
        row[:n].tolist() for row, n in zip(given["input_ids"], LENGTHS, strict=True)
    ]


def test_queries_with_lengths_are_asked_without_their_padding(server: Server) -> None:
    given = batch()
    lengths = given.pop("attention_mask").sum(1)
    teacher_of(server)({**given, "input_ids.lengths": lengths})
    assert [len(row) for row in server.requests[0][0]["prompt"]] == list(LENGTHS)


def test_a_server_that_is_busy_is_asked_again(server: Server) -> None:
    answers = iter([(503, "starting"), (429, "busy")])
    server.change = lambda answer: next(answers, answer)
    assert set(teacher_of(server)(batch())) == {"input_ids", "kept", "token_logprobs", "logits"}
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda answer: (401, "no"), AccessDenied, "HTTP 401: no"),
        (lambda answer: (400, "greater than max allowed: 20"), TransportError, "max allowed: 20"),
        (lambda answer: (302, ""), TransportError, "HTTP 302"),
        (lambda answer: (200, "<html>"), TransportError, "no answer in JSON"),
        (lambda answer: [], TransportError, "asked about 4 rows"),
        (lambda answer: {"choices": answer["choices"][1:]}, TransportError, "asked about 4 rows"),
        (
            lambda answer: {"choices": [{"index": n} for n in range(4)]},
            TransportError,
            "prompt_logprobs is None; is it a vLLM server",
        ),
        (
            lambda answer: {
                "choices": [
                    {**each, "prompt_logprobs": [None] + [{"1": {"logprob": -1.0}}] * (n - 1)}
                    for each, n in zip(answer["choices"], LENGTHS[::-1], strict=True)
                ]
            },
            TransportError,
            "its own log-probability must be there|5 ids below",
        ),
    ],
)
def test_what_is_no_such_answer_is_named(
    server: Server, change: Callable[[Any], Any], error: type[Exception], said: str
) -> None:
    server.change = change
    with pytest.raises(error, match=said):
        teacher_of(server, timeout_s=5)(batch())


def test_the_key_is_sent_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    teacher = teacher_of(server)
    teacher(batch())
    teacher_of(server, api_key="sk-given")(batch())
    keys = [headers["Authorization"] for _, headers in server.requests]
    assert keys == ["Bearer sk-environment", "Bearer sk-given"]
    assert "sk-" not in repr(teacher)
    server.change = lambda answer: (403, "denied")
    with pytest.raises(AccessDenied) as raised:
        teacher(batch())
    assert "sk-" not in str(raised.value)


def test_nobody_at_the_address_is_an_error_within_the_time() -> None:
    teacher = CompletionsTeacher("http://127.0.0.1:9/v1", model="m", k=1, vocabulary=9, timeout_s=1)
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:9/v1/completions gave no answer"):
        teacher(batch())


def test_mistakes_are_named(server: Server) -> None:
    for wrong, said in (
        ({"k": 0}, "k"),
        ({"k": tiny_models.VOCABULARY + 1}, "k"),
        ({"vocabulary": 0}, "vocabulary"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            teacher_of(server, **wrong)
    with pytest.raises(ConfigurationError, match="http"):
        CompletionsTeacher("localhost:8000", model="m", k=1, vocabulary=9)
    teacher = teacher_of(server)
    with pytest.raises(ConfigurationError, match="no input_ids"):
        teacher({"x": torch.zeros(1)})
    with pytest.raises(ConfigurationError, match="row 1 of the batch has no token"):
        teacher({"input_ids": torch.ones(2, 3).long(), "input_ids.lengths": torch.tensor([2, 0])})
    for name in ("position_ids", "loss_mask", "labels"):
        with pytest.raises(ConfigurationError, match=f"the batch has '{name}', which a server"):
            teacher({"input_ids": torch.ones(2, 3).long(), name: torch.ones(2, 3).long()})
