// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	writerCount = 8
	connCount   = 4
	keyCount    = 400
)

// serverReader reads from the restarted server.
type serverReader struct {
	kv          pb.KVClient
	maintenance pb.MaintenanceClient
	ctx         context.Context
}

func (r serverReader) head() (int64, int64, error) {
	// The linearizable read first: after it, all that was in the log is applied.
	resp, err := r.kv.Range(r.ctx, &pb.RangeRequest{Key: []byte("no such key")})
	if err != nil {
		return 0, 0, err
	}
	hash, err := r.maintenance.HashKV(r.ctx, &pb.HashKVRequest{})
	return resp.Header.GetRevision(), hash.GetCompactRevision(), err
}

func fromWire(kv *mvccpb.KeyValue) *harness.KV {
	return &harness.KV{Key: kv.Key, Value: kv.Value, Create: kv.CreateRevision, Mod: kv.ModRevision,
		Version: kv.Version, Lease: kv.Lease}
}

func (r serverReader) get(key string, revision int64) (*harness.KV, error) {
	resp, err := r.kv.Range(r.ctx, &pb.RangeRequest{Key: []byte(key), Revision: revision})
	if err != nil || len(resp.Kvs) == 0 {
		return nil, err
	}
	return fromWire(resp.Kvs[0]), nil
}

func (r serverReader) all() (list []*harness.KV, err error) {
	resp, err := r.kv.Range(r.ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	for _, kv := range resp.GetKvs() {
		list = append(list, fromWire(kv))
	}
	return list, err
}

func (r serverReader) hash(revision int64) (uint32, error) {
	resp, err := r.maintenance.HashKV(r.ctx, &pb.HashKVRequest{Revision: revision})
	return resp.GetHash(), err
}

// run is one test: a server, its history and the leases it must remember.
type run struct {
	t      *testing.T
	server *harness.Server
	h      *history
	rng    *rand.Rand
	conns  []*grpc.ClientConn
	leases map[int64]leaseState
	round  int
	mu     sync.Mutex // Guards h.ops and leases while writers run.

	acknowledged, compactions, doubleKills int
	starting, checking                     time.Duration
}

type leaseState int

const (
	leaseUnknown leaseState = iota // A call about it was not answered.
	leaseGranted
	leaseRevoked
)

func newRun(t *testing.T) *run {
	harness.CairnBin(t)
	seed := uint64(time.Now().UnixNano()) % 1e9
	if v, err := strconv.ParseUint(os.Getenv("CAIRN_SEED"), 0, 64); err == nil {
		seed = v
	}
	t.Logf("CAIRN_SEED=%d (chooses the requests; when a kill hits is up to the machine)", seed)
	// A short election timeout keeps rounds short.
	s := harness.StartForTest(t, harness.Cairn, "--heartbeat-interval=10", "--election-timeout=100")
	r := &run{t: t, server: s, h: newHistory(seed), rng: rand.New(rand.NewPCG(seed, 2)), leases: map[int64]leaseState{}}
	r.dial()
	t.Cleanup(r.hangUp)
	return r
}

func (r *run) dial() {
	r.hangUp()
	for range connCount {
		conn, err := r.server.Dial()
		if err != nil {
			r.t.Fatal(err)
		}
		r.conns = append(r.conns, conn)
	}
}

func (r *run) hangUp() {
	for _, conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
}

// writer sends writes until the server is gone.
type writer struct {
	run   *run
	id    int
	n     int
	rng   *rand.Rand
	kv    pb.KVClient
	lease pb.LeaseClient
	mods  map[string]int64 // Mod revisions this writer has seen, for guarded writes.
}

func (w *writer) key() string { return fmt.Sprintf("/crash/%04d", w.rng.IntN(keyCount)) }

// value is unlike any other that was ever written.
func (w *writer) value() []byte {
	w.n++
	v := fmt.Sprintf("round %d writer %d number %d ", w.run.round, w.id, w.n)
	return append([]byte(v), make([]byte, w.rng.IntN(400))...)
}

func (w *writer) loop(ctx context.Context) {
	for ctx.Err() == nil {
		var o *operation
		var err error
		switch n := w.rng.IntN(100); {
		case n < 60:
			o, err = w.put(ctx)
		case n < 75:
			o, err = w.delete(ctx)
		case n < 90:
			o, err = w.txn(ctx)
		default:
			o, err = w.guarded(ctx)
		}
		if !w.note(o, err) {
			return
		}
	}
}

// note records an operation with what is known of its outcome. It returns false when the server is gone.
func (w *writer) note(o *operation, err error) bool {
	w.run.mu.Lock()
	defer w.run.mu.Unlock()
	o.answered = err == nil
	w.run.h.ops = append(w.run.h.ops, o)
	if err == nil {
		w.run.acknowledged++
		return true
	}
	if code := status.Code(err); code != codes.Unavailable && code != codes.Canceled && code != codes.Unknown {
		w.run.t.Errorf("round %d, %s: %v", w.run.round, o.what, err)
	}
	return false
}

func (w *writer) put(ctx context.Context) (*operation, error) {
	c := harness.Change{Key: w.key(), Value: w.value()}
	o := &operation{what: "put " + c.Key, puts: []harness.Change{c}, asked: w.rng.IntN(2) == 0, changed: true}
	resp, err := w.kv.Put(ctx, &pb.PutRequest{Key: []byte(c.Key), Value: c.Value, PrevKv: o.asked})
	if err == nil {
		o.revision = resp.Header.Revision
		w.mods[c.Key] = o.revision
		if resp.PrevKv != nil {
			o.previous = fromWire(resp.PrevKv)
		}
	}
	return o, err
}

func (w *writer) delete(ctx context.Context) (*operation, error) {
	key, end := w.key(), ""
	if w.rng.IntN(5) == 0 {
		end = key + "x"
		key = key[:len(key)-1] // Ten keys.
	}
	o := &operation{what: "delete " + key, deletes: [][2]string{{key, end}}}
	resp, err := w.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
	if err == nil {
		o.revision, o.changed = resp.Header.Revision, resp.Deleted > 0
	}
	return o, err
}

func putOp(c harness.Change) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{
		Key: []byte(c.Key), Value: c.Value, Lease: c.Lease}}}
}

// txn deletes one key and puts some others, all in one revision.
func (w *writer) txn(ctx context.Context) (*operation, error) {
	used := map[string]bool{}
	fresh := func() string {
		for {
			if key := w.key(); !used[key] {
				used[key] = true
				return key
			}
		}
	}
	gone := fresh()
	o := &operation{what: "txn", deletes: [][2]string{{gone, ""}}, changed: true}
	r := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(gone)}}}}}
	for n := 1 + w.rng.IntN(6); n > 0; n-- {
		c := harness.Change{Key: fresh(), Value: w.value()}
		o.puts = append(o.puts, c)
		r.Success = append(r.Success, putOp(c))
	}
	resp, err := w.kv.Txn(ctx, r)
	if err == nil {
		o.revision = resp.Header.Revision
	}
	return o, err
}

// guarded puts a key if it is still as this writer saw it last.
func (w *writer) guarded(ctx context.Context) (*operation, error) {
	c := harness.Change{Key: w.key(), Value: w.value()}
	o := &operation{what: "guarded put " + c.Key, puts: []harness.Change{c}, guard: c.Key, guardMod: w.mods[c.Key]}
	resp, err := w.kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(c.Key), Target: pb.Compare_MOD,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: o.guardMod}}},
		Success: []*pb.RequestOp{putOp(c)},
	})
	if err == nil {
		o.revision, o.changed = resp.Header.Revision, resp.Succeeded
		if resp.Succeeded {
			w.mods[c.Key] = o.revision
		}
	}
	return o, err
}

// leases grants leases, attaches keys and revokes some.
func (w *writer) leases(ctx context.Context) {
	for n := int64(0); ctx.Err() == nil; n++ {
		id := int64(w.run.round)*1000 + n + 1
		_, err := w.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 5000})
		w.setLease(id, leaseGranted, err)
		if err != nil {
			return
		}
		for i := 0; i < 3; i++ {
			c := harness.Change{Key: fmt.Sprintf("/lease/%d/%d", n%40, i), Value: w.value(), Lease: id}
			o := &operation{what: "leased put " + c.Key, puts: []harness.Change{c}, changed: true}
			resp, err := w.kv.Put(ctx, &pb.PutRequest{Key: []byte(c.Key), Value: c.Value, Lease: id})
			o.revision = resp.GetHeader().GetRevision()
			if !w.note(o, err) {
				return
			}
		}
		if n%2 == 0 {
			continue
		}
		o := &operation{what: fmt.Sprintf("revoke %d", id), lease: id, changed: true}
		resp, err := w.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
		w.setLease(id, leaseRevoked, err)
		o.revision = resp.GetHeader().GetRevision()
		if !w.note(o, err) {
			return
		}
	}
}

func (w *writer) setLease(id int64, state leaseState, err error) {
	w.run.mu.Lock()
	defer w.run.mu.Unlock()
	if err != nil {
		state = leaseUnknown
	}
	w.run.leases[id] = state
}

// load runs the writers until stop, which ends the server, has returned.
func (r *run) load(stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for i := 0; i <= writerCount; i++ {
		conn := r.conns[i%len(r.conns)]
		w := &writer{run: r, id: i, rng: rand.New(rand.NewPCG(r.rng.Uint64(), uint64(i))), kv: pb.NewKVClient(conn),
			lease: pb.NewLeaseClient(conn), mods: map[string]int64{}}
		wg.Add(1)
		go func() {
			defer wg.Done()
			if w.id == writerCount {
				w.leases(ctx)
			} else {
				w.loop(ctx)
			}
		}()
	}
	stop()
	// The server is gone: every call ends by itself with an error. The limit is for a defect.
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		cancel()
		<-ended
		r.t.Errorf("round %d: calls did not end with the server", r.round)
	}
}

// compact asks for a compaction at a revision that was reached before this round.
func (r *run) compact() {
	low := max(r.h.model.Compacted, 0)
	revision := low + 1 + r.rng.Int64N(r.h.model.Current-low)
	if revision >= r.h.model.Current {
		return
	}
	r.h.compacts[revision] = true
	r.compactions++
	conn := r.conns[0]
	go pb.NewKVClient(conn).Compact(context.Background(), &pb.CompactionRequest{Revision: revision, Physical: true})
}

// defragment makes the server write its state out, so that later kills find different splits between log and database.
func (r *run) defragment() {
	conn := r.conns[0]
	go pb.NewMaintenanceClient(conn).Defragment(context.Background(), &pb.DefragmentRequest{})
}

func (r *run) pause(limit time.Duration) { time.Sleep(time.Duration(r.rng.Int64N(int64(limit)))) }

// kill ends the server without warning.
func (r *run) kill() {
	if err := r.server.Kill9(); err != nil {
		r.t.Fatal(err)
	}
}

// restart starts the server again, one time in ten after another kill while it is starting, and checks everything.
func (r *run) restart() {
	for r.rng.IntN(10) == 0 {
		r.doubleKills++
		if err := r.server.Start(); err != nil {
			r.t.Fatal(err)
		}
		r.pause(80 * time.Millisecond)
		r.kill()
	}
	begin := time.Now()
	if err := r.server.StartReady(); err != nil {
		r.t.Fatal(err)
	}
	r.starting += time.Since(begin)
	begin = time.Now()
	defer func() { r.checking += time.Since(begin) }()
	r.dial()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	reader := serverReader{pb.NewKVClient(r.conns[0]), pb.NewMaintenanceClient(r.conns[0]), ctx}
	if err := r.h.settle(reader); err != nil {
		r.t.Fatalf("round %d: %v", r.round, err)
	}
	r.checkLeases(ctx)
}

func (r *run) checkLeases(ctx context.Context) {
	resp, err := pb.NewLeaseClient(r.conns[0]).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	exists := map[int64]bool{}
	for _, l := range resp.Leases {
		exists[l.ID] = true
		if _, known := r.leases[l.ID]; !known {
			r.t.Fatalf("round %d: lease %d was never asked for", r.round, l.ID)
		}
	}
	for id, state := range r.leases {
		switch {
		case state == leaseGranted && !exists[id]:
			r.t.Fatalf("round %d: lease %d is lost", r.round, id)
		case state == leaseRevoked && exists[id]:
			r.t.Fatalf("round %d: lease %d came back", r.round, id)
		case state == leaseUnknown && exists[id]:
			r.leases[id] = leaseGranted
		case state == leaseUnknown:
			r.leases[id] = leaseRevoked
		}
	}
}

func (r *run) report(start time.Time) {
	r.t.Logf("%d rounds in %.1f s (starting %.1f s, checking %.1f s): %d writes answered, %d unknown ones done, %d not; %d compactions, %d kills while "+
		"starting; revision %d, compacted at %d", r.round, time.Since(start).Seconds(), r.starting.Seconds(), r.checking.Seconds(), r.acknowledged, r.h.resolved,
		r.h.dropped, r.compactions, r.doubleKills, r.h.model.Current, r.h.model.Compacted)
}

// TestKillUnderLoad kills the server CAIRN_ROUNDS times (200) while writers run, one round in three with a compaction and
// one in six with a defragmentation.
func TestKillUnderLoad(t *testing.T) {
	r := newRun(t)
	start := time.Now()
	rounds := harness.EnvInt("CAIRN_ROUNDS", 200)
	for r.round = 1; r.round <= rounds && !t.Failed(); r.round++ {
		r.load(func() {
			r.pause(150 * time.Millisecond)
			switch r.rng.IntN(6) {
			case 0, 1:
				r.compact()
				r.pause(20 * time.Millisecond)
			case 2:
				r.defragment()
				r.pause(60 * time.Millisecond)
			default:
				r.pause(100 * time.Millisecond)
			}
			r.kill()
		})
		r.restart()
	}
	r.round--
	r.report(start)
	if r.acknowledged < rounds {
		t.Errorf("only %d writes were answered in %d rounds: the test did not test much", r.acknowledged, rounds)
	}
}

// TestKillDuringCompaction lets history pile up and kills the server while it compacts it.
func TestKillDuringCompaction(t *testing.T) {
	r := newRun(t)
	start := time.Now()
	rounds := max(5, harness.EnvInt("CAIRN_ROUNDS", 200)/15)
	for r.round = 1; r.round <= rounds && !t.Failed(); r.round++ {
		r.load(func() { time.Sleep(700 * time.Millisecond); r.kill() })
		r.restart()
		r.load(func() {
			r.compact()
			r.pause(60 * time.Millisecond)
			r.kill()
		})
		r.restart()
	}
	r.round--
	r.report(start)
}
