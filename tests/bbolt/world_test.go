// SPDX-License-Identifier: Apache-2.0

package bbolt

import (
	"context"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"cairn/tests/harness"
)

// world is a server, of either kind, and a connection to it.
type world struct {
	t    *testing.T
	s    *harness.Server
	conn *grpc.ClientConn
}

func cairnutl(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("CAIRNUTL_BIN")
	if bin == "" {
		t.Skip("CAIRNUTL_BIN is not set: skipped what needs cairnutl")
	}
	return bin
}

func etcdutl(t *testing.T) string {
	t.Helper()
	bin, err := harness.Tool("ETCDUTL_BIN", "etcdutl", "go.etcd.io/etcd/etcdutl/v3")
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// run runs a program that must succeed and returns what it prints.
func run(t *testing.T, bin string, args ...string) string {
	t.Helper()
	out, err := exec.Command(bin, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(bin), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// runFails runs a program that must fail with that text.
func runFails(t *testing.T, text, bin string, args ...string) {
	t.Helper()
	out, err := exec.Command(bin, args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), text) {
		t.Errorf("%s %s: %v\n%s\nwanted %q", filepath.Base(bin), strings.Join(args, " "), err, out, text)
	}
}

// start starts a server; fill, if any, puts its data directory in place before.
func start(t *testing.T, kind harness.Kind, fill func(s *harness.Server)) *world {
	t.Helper()
	w := &world{t: t, s: harness.NewForTest(t, kind)}
	if fill != nil {
		fill(w.s)
	}
	w.restart()
	return w
}

func (w *world) restart() {
	w.t.Helper()
	if w.conn != nil {
		w.conn.Close()
		if _, err := w.s.Terminate(); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.s.StartReady(); err != nil {
		w.t.Fatal(err)
	}
	conn, err := w.s.Dial()
	if err != nil {
		w.t.Fatal(err)
	}
	w.conn = conn
	w.t.Cleanup(func() { conn.Close() })
}

func (w *world) stop() {
	w.t.Helper()
	w.conn.Close()
	w.conn = nil
	if _, err := w.s.Terminate(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) context() context.Context { return harness.Context(w.t, time.Minute) }

// save is `etcdctl snapshot save`.
func (w *world) save() string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "snapshot")
	f, err := os.Create(path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	stream, err := pb.NewMaintenanceClient(w.conn).Snapshot(w.context(), &pb.SnapshotRequest{})
	for err == nil {
		var part *pb.SnapshotResponse
		if part, err = stream.Recv(); err == nil {
			_, err = f.Write(part.Blob)
		}
	}
	if err != io.EOF {
		w.t.Fatal(err)
	}
	return path
}

// --- Random requests, the same for every server that gets them. -----------------------------------

func randomKey(rng *rand.Rand) []byte {
	prefixes := []string{"a", "b/", "\x00", "\xff\xff", "k"}
	return []byte(prefixes[rng.Intn(len(prefixes))] + strings.Repeat("\x00", rng.Intn(2)) + fmt.Sprint(rng.Intn(20)))
}

func randomLease(rng *rand.Rand) int64 { return []int64{1, 77, -5, 1 << 60}[rng.Intn(4)] }

func randomPut(rng *rand.Rand) *pb.PutRequest {
	put := &pb.PutRequest{Key: randomKey(rng), Value: []byte(randomBytes(rng, rng.Intn(60)))}
	if rng.Intn(25) == 0 {
		put.Value = []byte(randomBytes(rng, rng.Intn(50_000)))
	}
	if rng.Intn(4) == 0 {
		put.Lease = randomLease(rng)
	}
	return put
}

func randomDelete(rng *rand.Rand) *pb.DeleteRangeRequest {
	del := &pb.DeleteRangeRequest{Key: randomKey(rng)}
	if rng.Intn(4) == 0 {
		del.RangeEnd = randomKey(rng)
	}
	return del
}

func randomTxn(rng *rand.Rand) *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	for i := 1 + rng.Intn(6); i > 0; i-- {
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: randomPut(rng)}}
		if rng.Intn(3) == 0 {
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: randomDelete(rng)}
		}
		txn.Success = append(txn.Success, op)
	}
	return txn
}

// request draws a request and returns what sends it and gives the answer in a few words.
func request(rng *rand.Rand) func(w *world) string {
	words := func(r interface{ GetHeader() *pb.ResponseHeader }, err error) string {
		if err != nil {
			return status.Convert(err).Message()
		}
		return fmt.Sprint(r.GetHeader().GetRevision())
	}
	switch n := rng.Intn(100); {
	case n < 50:
		q := randomPut(rng)
		return func(w *world) string { return words(pb.NewKVClient(w.conn).Put(w.context(), q)) }
	case n < 65:
		q := randomDelete(rng)
		return func(w *world) string { return words(pb.NewKVClient(w.conn).DeleteRange(w.context(), q)) }
	case n < 85:
		q := randomTxn(rng)
		return func(w *world) string { return words(pb.NewKVClient(w.conn).Txn(w.context(), q)) }
	case n < 92:
		q := &pb.LeaseGrantRequest{ID: randomLease(rng), TTL: 10_000 + rng.Int63n(1000)}
		return func(w *world) string { return words(pb.NewLeaseClient(w.conn).LeaseGrant(w.context(), q)) }
	case n < 96:
		q := &pb.LeaseRevokeRequest{ID: randomLease(rng)}
		return func(w *world) string { return words(pb.NewLeaseClient(w.conn).LeaseRevoke(w.context(), q)) }
	default:
		back, physical := rng.Int63n(60), rng.Intn(2) == 0
		return func(w *world) string {
			q := &pb.CompactionRequest{Revision: w.revision() - back, Physical: physical}
			return words(pb.NewKVClient(w.conn).Compact(w.context(), q))
		}
	}
}

// play sends n random requests to each of the servers, which must answer alike.
func play(t *testing.T, rng *rand.Rand, n int, worlds ...*world) {
	t.Helper()
	for i := 0; i < n; i++ {
		send := request(rng)
		first := send(worlds[0])
		for _, w := range worlds[1:] {
			if got := send(w); got != first {
				t.Fatalf("request %d: %s says %q, %s %q", i, worlds[0].s.Kind, first, w.s.Kind, got)
			}
		}
	}
}

// --- What a client can see. -----------------------------------------------------------------------

func (w *world) rangeAll(rev int64) (*pb.RangeResponse, error) {
	q := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: rev}
	return pb.NewKVClient(w.conn).Range(w.context(), q)
}

func (w *world) revision() int64 {
	w.t.Helper()
	r, err := pb.NewKVClient(w.conn).Range(w.context(), &pb.RangeRequest{Key: []byte("x"), CountOnly: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Header.Revision
}

// see returns a line for everything that two servers with the same data must show alike: ranges, counts and hashes at
// revisions from the oldest on, leases with their keys.
func (w *world) see() []string {
	w.t.Helper()
	last := w.revision()
	lines := []string{fmt.Sprintf("revision %d", last)}
	for rev := int64(1); rev <= last+1; rev += 1 + last/40 {
		lines = append(lines, w.seeRevision(rev)...)
	}
	lines = append(lines, w.seeRevision(last)...)
	return append(lines, w.seeLeases()...)
}

func (w *world) seeRevision(rev int64) []string {
	lines := []string{}
	all, err := w.rangeAll(rev)
	lines = append(lines, fmt.Sprintf("range %d: %d %v", rev, all.GetCount(), status.Convert(err).Message()))
	for _, kv := range all.GetKvs() {
		lines = append(lines, fmt.Sprintf("%d: %v", rev, kv))
	}
	hash, err := pb.NewMaintenanceClient(w.conn).HashKV(w.context(), &pb.HashKVRequest{Revision: rev})
	return append(lines, fmt.Sprintf("hash %d: %d at %d, compacted %d %v", rev, hash.GetHash(), hash.GetHashRevision(),
		hash.GetCompactRevision(), status.Convert(err).Message()))
}

func (w *world) seeLeases() []string {
	w.t.Helper()
	client := pb.NewLeaseClient(w.conn)
	list, err := client.LeaseLeases(w.context(), &pb.LeaseLeasesRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	lines := []string{}
	for _, l := range list.Leases {
		r, err := client.LeaseTimeToLive(w.context(), &pb.LeaseTimeToLiveRequest{ID: l.ID, Keys: true})
		if err != nil {
			w.t.Fatal(err)
		}
		keys := []string{}
		for _, k := range r.Keys {
			keys = append(keys, string(k))
		}
		sort.Strings(keys)
		lines = append(lines, fmt.Sprintf("lease %d of %d s: %q", l.ID, r.GrantedTTL, keys))
	}
	sort.Strings(lines)
	return lines
}

func same(t *testing.T, a, b *world) {
	t.Helper()
	x, y := a.see(), b.see()
	if reflect.DeepEqual(x, y) {
		return
	}
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			t.Fatalf("%s: %.200s\n%s: %.200s", a.s.Kind, x[i], b.s.Kind, y[i])
		}
	}
	t.Fatalf("%s shows %d lines, %s %d", a.s.Kind, len(x), b.s.Kind, len(y))
}
