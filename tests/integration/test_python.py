# SPDX-License-Identifier: Apache-2.0
"""Drives a server through Python's stock gRPC stack, with stubs made from api/proto at test time.

The server is the one that CAIRN_BIN names; without it everything here is skipped.
"""

import concurrent.futures
import ctypes
import importlib
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

grpc = pytest.importorskip("grpc")
protoc = pytest.importorskip("grpc_tools.protoc")

PROTO = pathlib.Path(__file__).resolve().parents[2] / "api" / "proto"
READY_SECONDS = 60


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """The modules that protoc makes from our own definitions."""
    out = tmp_path_factory.mktemp("stubs")
    known = pathlib.Path(protoc.__file__).parent / "_proto"  # Protobuf's own definitions.
    args = ["protoc", f"-I{PROTO}", f"-I{known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    assert protoc.main(args + [str(p) for p in sorted(PROTO.glob("*.proto"))]) == 0
    sys.path.insert(0, str(out))

    class Stubs:
        rpc = importlib.import_module("rpc_pb2")
        service = importlib.import_module("rpc_pb2_grpc")
        kv = importlib.import_module("kv_pb2")
        health = importlib.import_module("health_pb2")
        health_service = importlib.import_module("health_pb2_grpc")

    return Stubs


def free_port():
    """A port of the tests' range, so that no outgoing connection can take it meanwhile."""
    for port in range(24900 - os.getpid() % 400, 24000, -1):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


def die_with_parent():
    ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)


class Server:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.client = free_port()
        with socket.socket() as taken:  # So that the second port is another one.
            taken.bind(("127.0.0.1", self.client))
            self.peer = free_port()
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.client}"

    def start(self):
        peer = f"http://127.0.0.1:{self.peer}"
        client = f"http://{self.address}"
        self.log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(
            [
                self.binary,
                "--name=default",
                f"--data-dir={self.folder}/data",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
            ],
            stdout=self.log,
            stderr=self.log,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            try:
                with urllib.request.urlopen(client + "/health", timeout=2) as r:
                    if r.status == 200:
                        return
            except OSError:
                time.sleep(0.01)
        raise AssertionError("not ready: " + (self.folder / "log").read_text()[-3000:])

    def stop(self, sig=signal.SIGTERM):
        if self.process is None:
            return
        self.process.send_signal(sig)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process = None
            self.log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    binary = os.environ.get("CAIRN_BIN")
    if not binary:
        pytest.skip("CAIRN_BIN is not set")
    s = Server(binary, tmp_path_factory.mktemp("server"))
    s.start()
    yield s
    s.stop()


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(
        server.address, options=[("grpc.max_receive_message_length", -1)]
    ) as c:
        yield c


@pytest.fixture
def kv(channel, stubs):
    return stubs.service.KVStub(channel)


def refused(call, request, code, text):
    with pytest.raises(grpc.RpcError) as e:
        call(request, timeout=10)
    assert (e.value.code(), e.value.details()) == (code, text)


def test_put_and_range(kv, stubs):
    put = kv.Put(stubs.rpc.PutRequest(key=b"py/a", value=b"1"), timeout=10)
    assert (
        put.header.revision > 1
        and put.header.cluster_id
        and put.header.member_id
        and put.header.raft_term
    )
    again = kv.Put(stubs.rpc.PutRequest(key=b"py/a", value=b"2", prev_kv=True), timeout=10)
    assert again.header.revision == put.header.revision + 1
    assert again.prev_kv.value == b"1" and again.prev_kv.version == 1
    got = kv.Range(stubs.rpc.RangeRequest(key=b"py/a"), timeout=10)
    assert got.count == 1 and not got.more
    assert got.kvs[0] == stubs.kv.KeyValue(
        key=b"py/a",
        value=b"2",
        version=2,
        create_revision=put.header.revision,
        mod_revision=again.header.revision,
    )
    old = kv.Range(stubs.rpc.RangeRequest(key=b"py/a", revision=put.header.revision), timeout=10)
    assert old.kvs[0].value == b"1"


def test_range_options(kv, stubs):
    for i in range(30):
        kv.Put(stubs.rpc.PutRequest(key=b"opt/%02d" % i, value=b"%d" % (i % 3)), timeout=10)
    request = stubs.rpc.RangeRequest(
        key=b"opt/", range_end=b"opt0", limit=7, sort_target="KEY", sort_order="DESCEND"
    )
    got = kv.Range(request, timeout=10)
    assert [x.key for x in got.kvs] == [b"opt/%02d" % i for i in range(29, 22, -1)]
    assert got.more and got.count == 30
    keys = kv.Range(
        stubs.rpc.RangeRequest(key=b"opt/", range_end=b"opt0", keys_only=True), timeout=10
    )
    assert len(keys.kvs) == 30 and not any(x.value for x in keys.kvs)
    count = kv.Range(
        stubs.rpc.RangeRequest(key=b"opt/", range_end=b"opt0", count_only=True), timeout=10
    )
    assert count.count == 30 and not count.kvs


def test_range_stream(kv, stubs):
    for i in range(100):
        kv.Put(stubs.rpc.PutRequest(key=b"stream/%03d" % i, value=b"x" * 1000), timeout=10)
    request = stubs.rpc.RangeRequest(key=b"stream/", range_end=b"stream0")
    chunks = [m.range_response for m in kv.RangeStream(request, timeout=10)]
    assert [x.key for c in chunks for x in c.kvs] == [b"stream/%03d" % i for i in range(100)]
    assert (
        chunks[-1].count == 100
        and chunks[-1].HasField("header")
        and not chunks[0].HasField("header")
    )


def test_txn(kv, stubs):
    rpc = stubs.rpc
    create = rpc.TxnRequest(
        compare=[rpc.Compare(key=b"txn/k", target="CREATE", result="EQUAL", create_revision=0)],
        success=[rpc.RequestOp(request_put=rpc.PutRequest(key=b"txn/k", value=b"v"))],
        failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=b"txn/k"))],
    )
    first, second = kv.Txn(create, timeout=10), kv.Txn(create, timeout=10)
    assert first.succeeded and not second.succeeded
    assert second.responses[0].response_range.kvs[0].value == b"v"
    twice = rpc.TxnRequest(success=[rpc.RequestOp(request_put=rpc.PutRequest(key=b"x"))] * 2)
    refused(
        kv.Txn,
        twice,
        grpc.StatusCode.INVALID_ARGUMENT,
        "etcdserver: duplicate key given in txn request",
    )
    many = rpc.TxnRequest(success=[rpc.RequestOp(request_range=rpc.RangeRequest(key=b"x"))] * 129)
    refused(
        kv.Txn,
        many,
        grpc.StatusCode.INVALID_ARGUMENT,
        "etcdserver: too many operations in txn request",
    )


def test_delete_and_compact(kv, stubs):
    rpc = stubs.rpc
    for i in range(5):
        revision = kv.Put(rpc.PutRequest(key=b"del/%d" % i), timeout=10).header.revision
    gone = kv.DeleteRange(
        rpc.DeleteRangeRequest(key=b"del/", range_end=b"del0", prev_kv=True), timeout=10
    )
    assert gone.deleted == 5 and len(gone.prev_kvs) == 5 and gone.header.revision == revision + 1
    kv.Compact(rpc.CompactionRequest(revision=revision, physical=True), timeout=10)
    refused(
        kv.Range,
        rpc.RangeRequest(key=b"del/0", revision=revision - 1),
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
    )
    assert kv.Range(rpc.RangeRequest(key=b"del/0", revision=revision), timeout=10).count == 1
    refused(
        kv.Range,
        rpc.RangeRequest(key=b"a", revision=revision + 1000),
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    )


def test_errors(kv, stubs):
    rpc = stubs.rpc
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    refused(kv.Put, rpc.PutRequest(), invalid, "etcdserver: key is not provided")
    refused(kv.Range, rpc.RangeRequest(), invalid, "etcdserver: key is not provided")
    refused(
        kv.Range,
        rpc.RangeRequest(key=b"a", sort_order=7),
        invalid,
        "etcdserver: invalid sort option",
    )
    refused(
        kv.Put,
        rpc.PutRequest(key=b"a", lease=404),
        grpc.StatusCode.NOT_FOUND,
        "etcdserver: requested lease not found",
    )
    refused(
        kv.Put,
        rpc.PutRequest(key=b"big", value=b"x" * 1_600_000),
        invalid,
        "etcdserver: request is too large",
    )


def test_leases(channel, kv, stubs):
    lease = stubs.service.LeaseStub(channel)
    granted = lease.LeaseGrant(stubs.rpc.LeaseGrantRequest(TTL=500), timeout=10)
    assert granted.ID > 0 and granted.TTL == 500
    kv.Put(stubs.rpc.PutRequest(key=b"leased", lease=granted.ID), timeout=10)
    left = lease.LeaseTimeToLive(
        stubs.rpc.LeaseTimeToLiveRequest(ID=granted.ID, keys=True), timeout=10
    )
    assert 480 < left.TTL <= 500 and list(left.keys) == [b"leased"]
    assert granted.ID in [
        x.ID for x in lease.LeaseLeases(stubs.rpc.LeaseLeasesRequest(), timeout=10).leases
    ]
    lease.LeaseRevoke(stubs.rpc.LeaseRevokeRequest(ID=granted.ID), timeout=10)
    assert kv.Range(stubs.rpc.RangeRequest(key=b"leased"), timeout=10).count == 0


class Watching:
    """A watch stream whose requests are sent one by one."""

    def __init__(self, channel, stubs):
        self.rpc = stubs.rpc
        self.requests = queue.Queue()
        self.responses = stubs.service.WatchStub(channel).Watch(
            iter(self.requests.get, None), timeout=60
        )

    def create(self, **fields):
        create = self.rpc.WatchCreateRequest(**fields)
        self.requests.put(self.rpc.WatchRequest(create_request=create))
        return next(self.responses)

    def close(self):
        self.requests.put(None)
        self.responses.cancel()


@pytest.fixture
def watching(channel, stubs):
    w = Watching(channel, stubs)
    yield w
    w.close()


def test_watch(watching, kv, stubs):
    rpc = stubs.rpc
    made = watching.create(key=b"watch/", range_end=b"watch0", prev_kv=True)
    assert made.created and not made.canceled and made.watch_id == 0 and made.header.member_id
    first = kv.Put(rpc.PutRequest(key=b"watch/a", value=b"1"), timeout=10).header.revision
    kv.Put(rpc.PutRequest(key=b"watch/a", value=b"2"), timeout=10)
    kv.DeleteRange(rpc.DeleteRangeRequest(key=b"watch/a"), timeout=10)
    got = []
    while len(got) < 3:
        got += next(watching.responses).events
    assert [e.type for e in got] == [0, 0, 1]
    assert [e.kv.mod_revision for e in got] == [first, first + 1, first + 2]
    assert [e.prev_kv.value for e in got] == [b"", b"1", b"2"]
    watching.requests.put(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
    progress = next(watching.responses)
    assert (progress.watch_id, progress.header.revision) == (-1, first + 2)
    watching.requests.put(rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=0)))
    assert next(watching.responses).canceled


def test_watch_filters_and_refusals(watching, kv, stubs):
    rpc = stubs.rpc
    start = kv.Put(rpc.PutRequest(key=b"filter"), timeout=10).header.revision
    kv.DeleteRange(rpc.DeleteRangeRequest(key=b"filter"), timeout=10)
    kv.Put(rpc.PutRequest(key=b"filter", value=b"2"), timeout=10)
    made = watching.create(key=b"filter", start_revision=start, filters=["NODELETE"], watch_id=7)
    assert made.watch_id == 7
    got = []
    while len(got) < 2:
        got += next(watching.responses).events
    assert [e.kv.mod_revision for e in got] == [start, start + 2]
    for fields, reason in (
        ({"key": b"b", "range_end": b"a"}, "mvcc: watcher range is empty"),
        ({"key": b"b", "watch_id": 7}, "mvcc: duplicate watch ID provided on the WatchStream"),
        (
            {"key": b"b", "start_revision": -1},
            "etcdserver: mvcc: required revision has been compacted",
        ),
    ):
        refusal = watching.create(**fields)
        assert refusal.created and refusal.canceled and refusal.watch_id == -1
        assert refusal.cancel_reason == reason


def test_keep_alive(channel, stubs):
    lease = stubs.service.LeaseStub(channel)
    granted = lease.LeaseGrant(stubs.rpc.LeaseGrantRequest(TTL=30), timeout=10)
    ids = [granted.ID, granted.ID, 404]
    answers = lease.LeaseKeepAlive(
        iter([stubs.rpc.LeaseKeepAliveRequest(ID=i) for i in ids]), timeout=10
    )
    assert [(a.ID, a.TTL) for a in answers] == [(granted.ID, 30), (granted.ID, 30), (404, 0)]


def test_maintenance(channel, stubs):
    status = stubs.service.MaintenanceStub(channel).Status(stubs.rpc.StatusRequest(), timeout=10)
    assert status.version == "3.7.1" and status.leader == status.header.member_id
    members = stubs.service.ClusterStub(channel).MemberList(
        stubs.rpc.MemberListRequest(), timeout=10
    )
    assert len(members.members) == 1


def test_health(channel, stubs):
    health = stubs.health_service.HealthStub(channel)
    serving = stubs.health.HealthCheckResponse.SERVING
    assert health.Check(stubs.health.HealthCheckRequest(), timeout=10).status == serving


def test_many_threads(server, stubs):
    def work(n):
        with grpc.insecure_channel(server.address) as c:
            stub = stubs.service.KVStub(c)
            return [
                stub.Put(stubs.rpc.PutRequest(key=b"thread/%d" % n), timeout=20).header.revision
                for _ in range(20)
            ]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        revisions = [r for done in pool.map(work, range(16)) for r in done]
    assert len(set(revisions)) == 16 * 20


def test_deadline(kv, stubs):
    for i in range(50):
        try:
            kv.Put(stubs.rpc.PutRequest(key=b"late"), timeout=i * 0.0001 + 0.00001)
        except grpc.RpcError as e:
            # The server's reset of the stream may come first.
            assert e.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
    kv.Put(stubs.rpc.PutRequest(key=b"late"), timeout=10)


def test_restart_keeps_data(server, stubs):
    with grpc.insecure_channel(server.address) as c:
        stubs.service.KVStub(c).Put(stubs.rpc.PutRequest(key=b"kept", value=b"v"), timeout=10)
        before = stubs.service.MaintenanceStub(c).HashKV(stubs.rpc.HashKVRequest(), timeout=10)
    for sig in (signal.SIGTERM, signal.SIGKILL):
        server.stop(sig)
        server.start()
        with grpc.insecure_channel(server.address) as c:
            got = stubs.service.KVStub(c).Range(stubs.rpc.RangeRequest(key=b"kept"), timeout=10)
            assert got.kvs[0].value == b"v"
            after = stubs.service.MaintenanceStub(c).HashKV(stubs.rpc.HashKVRequest(), timeout=10)
            assert (after.hash, after.hash_revision) == (before.hash, before.hash_revision)
