// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairn/tests/harness"

	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	epb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// lockWorld is one server under a script of lock and election calls, and what they answered: revisions as distances from
// the script's beginning, leases by the order in which they were met, so that two servers can be compared.
type lockWorld struct {
	t        *testing.T
	s        *harness.Server
	ctx      context.Context
	kv       pb.KVClient
	leases   pb.LeaseClient
	lock     lpb.LockClient
	election epb.ElectionClient

	base  int64
	names map[int64]string
	lines []string
}

func newLockWorld(t *testing.T, s *harness.Server) *lockWorld {
	t.Helper()
	conn, err := s.Dial()
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	w := &lockWorld{
		t: t, s: s, ctx: harness.Context(t, time.Minute), names: map[int64]string{},
		kv: pb.NewKVClient(conn), leases: pb.NewLeaseClient(conn),
		lock: lpb.NewLockClient(conn), election: epb.NewElectionClient(conn),
	}
	w.base = w.revision()
	return w
}

func (w *lockWorld) revision() int64 {
	w.t.Helper()
	r, err := w.kv.Range(w.ctx, &pb.RangeRequest{Key: []byte("none")})
	must(w.t, err)
	return r.Header.Revision
}

func (w *lockWorld) grant(ttl int64) int64 {
	w.t.Helper()
	r, err := w.leases.LeaseGrant(w.ctx, &pb.LeaseGrantRequest{TTL: ttl})
	must(w.t, err)
	w.name(r.ID)
	return r.ID
}

func (w *lockWorld) revoke(lease int64) {
	w.t.Helper()
	_, err := w.leases.LeaseRevoke(w.ctx, &pb.LeaseRevokeRequest{ID: lease})
	must(w.t, err)
}

// end revokes what the script's calls granted, so that nothing expires under a later test.
func (w *lockWorld) end() {
	w.t.Helper()
	for lease := range w.names {
		_, err := w.leases.LeaseRevoke(w.ctx, &pb.LeaseRevokeRequest{ID: lease})
		if err != nil && status.Code(err) != codes.NotFound {
			w.t.Fatal(err)
		}
	}
}

func (w *lockWorld) put(key, value string) {
	w.t.Helper()
	_, err := w.kv.Put(w.ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	must(w.t, err)
}

func (w *lockWorld) remove(key string) {
	w.t.Helper()
	_, err := w.kv.DeleteRange(w.ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
	must(w.t, err)
}

// keys returns the keys below a name, oldest first.
func (w *lockWorld) keys(name string) (keys [][]byte) {
	w.t.Helper()
	r, err := w.kv.Range(w.ctx, &pb.RangeRequest{
		Key: []byte(name + "/"), RangeEnd: []byte(name + "0"),
		SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND,
	})
	must(w.t, err)
	for _, kv := range r.Kvs {
		keys = append(keys, kv.Key)
	}
	return keys
}

// waitKeys waits until a name has so many keys.
func (w *lockWorld) waitKeys(name string, n int) {
	w.t.Helper()
	for len(w.keys(name)) != n {
		if w.ctx.Err() != nil {
			w.t.Fatalf("%s has not got %d keys", name, n)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (w *lockWorld) name(lease int64) string {
	if w.names[lease] == "" {
		w.names[lease] = fmt.Sprintf("L%d", len(w.names)+1)
	}
	return w.names[lease]
}

var leaseInKey = regexp.MustCompile(`/[0-9a-f]{12,16}\b`)

func (w *lockWorld) key(key []byte) string {
	return leaseInKey.ReplaceAllStringFunc(string(key), func(hex string) string {
		lease, _ := strconv.ParseInt(hex[1:], 16, 64)
		return "/" + w.name(lease)
	})
}

func (w *lockWorld) header(h *pb.ResponseHeader) string {
	switch {
	case h == nil:
		return "no header"
	case h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0:
		return "header incomplete: " + h.String()
	}
	return fmt.Sprintf("@%d", h.Revision-w.base)
}

func (w *lockWorld) keyValue(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "no kv"
	}
	return fmt.Sprintf("%s=%q created %d changed %d version %d lease %s", w.key(kv.Key), kv.Value,
		kv.CreateRevision-w.base, kv.ModRevision-w.base, kv.Version, w.name(kv.Lease))
}

func (w *lockWorld) text(r any) string {
	switch r := r.(type) {
	case *lpb.LockResponse:
		return w.header(r.Header) + " " + w.key(r.Key)
	case *epb.CampaignResponse:
		l := r.Leader
		return fmt.Sprintf("%s %q %s %d %s", w.header(r.Header), l.Name, w.key(l.Key), l.Rev-w.base, w.name(l.Lease))
	case *epb.LeaderResponse:
		return w.header(r.Header) + " " + w.keyValue(r.Kv)
	case interface{ GetHeader() *pb.ResponseHeader }:
		return w.header(r.GetHeader())
	}
	panic(r)
}

// note writes down how a call ended.
func (w *lockWorld) note(what string, r any, err error) {
	if err != nil {
		s, _ := status.FromError(err)
		if s.Code() == codes.DeadlineExceeded { // The client's own words.
			w.say("%s: %v", what, s.Code())
		} else {
			w.say("%s: %v %q", what, s.Code(), s.Message())
		}
		return
	}
	w.say("%s: %s", what, w.text(r))
}

func (w *lockWorld) say(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

// ended is a call that runs beside the script.
type ended struct {
	r   any
	err error
}

func (w *lockWorld) start(call func() (any, error)) <-chan ended {
	done := make(chan ended, 1)
	go func() {
		r, err := call()
		done <- ended{r, err}
	}()
	return done
}

func (w *lockWorld) join(what string, done <-chan ended) any {
	e := <-done
	w.note(what, e.r, e.err)
	return e.r
}

func (w *lockWorld) startLock(ctx context.Context, name string, lease int64) <-chan ended {
	return w.start(func() (any, error) { return w.lock.Lock(ctx, &lpb.LockRequest{Name: []byte(name), Lease: lease}) })
}

func (w *lockWorld) startCampaign(ctx context.Context, name string, lease int64, value string) <-chan ended {
	return w.start(func() (any, error) {
		return w.election.Campaign(ctx, &epb.CampaignRequest{Name: []byte(name), Lease: lease, Value: []byte(value)})
	})
}

func (w *lockWorld) doLock(what, name string, lease int64) []byte {
	r, err := w.lock.Lock(w.ctx, &lpb.LockRequest{Name: []byte(name), Lease: lease})
	w.note(what, r, err)
	return r.GetKey()
}

func (w *lockWorld) doUnlock(what string, key []byte) {
	r, err := w.lock.Unlock(w.ctx, &lpb.UnlockRequest{Key: key})
	w.note(what, r, err)
}

func (w *lockWorld) doCampaign(what, name string, lease int64, value string) *epb.LeaderKey {
	r, err := w.election.Campaign(w.ctx, &epb.CampaignRequest{Name: []byte(name), Lease: lease, Value: []byte(value)})
	w.note(what, r, err)
	return r.GetLeader()
}

func (w *lockWorld) doProclaim(what string, leader *epb.LeaderKey, value string) {
	r, err := w.election.Proclaim(w.ctx, &epb.ProclaimRequest{Leader: leader, Value: []byte(value)})
	w.note(what, r, err)
}

func (w *lockWorld) doResign(what string, leader *epb.LeaderKey) {
	r, err := w.election.Resign(w.ctx, &epb.ResignRequest{Leader: leader})
	w.note(what, r, err)
}

func (w *lockWorld) doLeader(what, name string) {
	r, err := w.election.Leader(w.ctx, &epb.LeaderRequest{Name: []byte(name)})
	w.note(what, r, err)
}

// sameAnswers runs a script on etcd and on Cairn and compares what was written down.
func sameAnswers(t *testing.T, script func(w *lockWorld)) {
	t.Helper()
	etcd, cairn := bothServers(t)
	compareScripts(t, etcd, cairn, script)
}

// sameAnswersApart is sameAnswers on servers where nothing else is watched.
func sameAnswersApart(t *testing.T, script func(w *lockWorld)) {
	t.Helper()
	compareScripts(t, harness.StartForTest(t, harness.Etcd), harness.StartForTest(t, harness.Cairn), script)
}

func compareScripts(t *testing.T, etcd, cairn *harness.Server, script func(w *lockWorld)) {
	t.Helper()
	var lines [2][]string
	for i, s := range []*harness.Server{etcd, cairn} {
		w := newLockWorld(t, s)
		script(w)
		w.end()
		lines[i] = w.lines
	}
	for i := range max(len(lines[0]), len(lines[1])) {
		var want, got string
		if i < len(lines[0]) {
			want = lines[0][i]
		}
		if i < len(lines[1]) {
			got = lines[1][i]
		}
		if want != got {
			t.Errorf("etcd:  %s\ncairn: %s", want, got)
		}
	}
	if len(lines[0]) == 0 {
		t.Error("the script wrote nothing down")
	}
	t.Logf("%d answers are the same, such as %s", len(lines[0]), lines[0][0])
}

func TestLockAnswers(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		w.doLock("missing lease", name, 12345)
		w.doLock("negative lease", name, -1)
		w.doUnlock("granted", w.doLock("no lease", name+"0", 0))
		w.doUnlock("unlock without name", w.doLock("without name", "", w.grant(60)))
		lease := w.grant(60)
		key := w.doLock("lock", name, lease)
		w.put(name, "another key")
		w.doLock("lock again", name, lease)
		w.doUnlock("unlock", key)
		w.doUnlock("unlock again", key)
		w.doUnlock("unlock nothing", nil)
		w.doUnlock("unlock zero", []byte{0})
		w.doLock("too long", strings.Repeat("x", 1600000), lease)
		w.doLock("too long together", strings.Repeat("x", 600000), lease)
		w.doLock("odd name", name+"\x00\xff/", lease)
		w.revoke(lease)
		w.doLock("revoked lease", name, lease)
		w.put(name+"/-5", "not a lock")
		w.doLock("key with a negative lease", name, -5)
		w.remove(name + "/-5")
	})
}

// A lease granted for a caller that gave none lives a minute, and nobody keeps it alive.
func TestLockGrantsLease(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		key := w.doLock("lock", name, 0)
		lease, err := strconv.ParseInt(string(key[len(name)+1:]), 16, 64)
		must(t, err)
		r, err := w.leases.LeaseTimeToLive(w.ctx, &pb.LeaseTimeToLiveRequest{ID: lease, Keys: true})
		must(t, err)
		w.say("%d s, %d keys, %s", r.GrantedTTL, len(r.Keys), w.key(r.Keys[0]))
	})
}

func TestLockContention(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		key := w.doLock("holder", name, w.grant(60))
		var waiters []<-chan ended
		for i := range 4 {
			waiters = append(waiters, w.startLock(w.ctx, name, w.grant(60)))
			w.waitKeys(name, i+2)
		}
		for i, done := range waiters {
			w.put(name, "another key")
			w.doUnlock("unlock", key)
			key = w.join(fmt.Sprint("waiter ", i), done).(*lpb.LockResponse).Key
			w.say("%d keys", len(w.keys(name)))
		}
		w.doUnlock("last", key)
	})
}

// Whoever waits is behind every older key of the name, whoever made it, and behind one at a time.
func TestLockBehindOthers(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		w.put(name+"/a", "older")
		w.put(name+"/b", "older too")
		done := w.startLock(w.ctx, name, w.grant(60))
		w.waitKeys(name, 3)
		w.put(name+"/c", "younger")
		w.put(name+"/b", "changed")
		w.remove(name + "/a")
		w.put(name+"/a", "younger now")
		w.remove(name + "/b")
		w.join("lock", done)
		w.remove(name + "/a")
		w.remove(name + "/c")
	})
}

func TestLockLeaseEndsWhileWaiting(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		key := w.doLock("holder", name, w.grant(60))
		lease := w.grant(60)
		done := w.startLock(w.ctx, name, lease)
		w.waitKeys(name, 2)
		w.revoke(lease)
		w.doUnlock("unlock", key)
		w.join("revoked while waiting", done)
		w.say("%d keys", len(w.keys(name)))
	})
}

// A lease that really runs out: of the holder, which lets the next one in, and of a caller.
func TestLockLeaseExpires(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		short := w.grant(10)
		w.doLock("holder", name, short)
		done := w.startLock(w.ctx, name, w.grant(60))
		w.waitKeys(name, 2)
		w.join("after the holder's lease", done)
		w.doLock("expired lease", name, short)
	})
}

// A waiter that gives up leaves no key behind, and who waits behind it goes on.
func TestLockCancel(t *testing.T) {
	name := unique(t, "n")
	sameAnswersApart(t, func(w *lockWorld) {
		key := w.doLock("holder", name, w.grant(60))
		ctx, cancel := context.WithCancel(w.ctx)
		first := w.startLock(ctx, name, w.grant(60))
		w.waitKeys(name, 2)
		second := w.startLock(w.ctx, name, w.grant(60))
		w.waitKeys(name, 3)
		waitSynced(w.ctx, t, w.s, 2) // A call that ends before it waits leaves its key, as with etcd.
		cancel()
		w.join("cancelled", first)
		w.waitKeys(name, 2)
		w.doUnlock("unlock", key)
		key = w.join("behind it", second).(*lpb.LockResponse).Key

		lease := w.grant(60)
		ctx, cancel = context.WithTimeout(w.ctx, 5*time.Second)
		defer cancel()
		w.join("out of time", w.startLock(ctx, name, lease))
		w.waitKeys(name, 1)
		w.doUnlock("unlock", key)
	})
}

// waitSynced waits until a server has so many watchers, all of them at the newest revision.
func waitSynced(ctx context.Context, t *testing.T, s *harness.Server, n int) {
	t.Helper()
	for {
		r, err := http.Get(s.URL() + "/metrics")
		must(t, err)
		body, err := io.ReadAll(r.Body)
		must(t, err)
		r.Body.Close()
		if bytes.Contains(body, fmt.Appendf(nil, "\netcd_debugging_mvcc_watcher_total %d\n", n)) &&
			bytes.Contains(body, []byte("\netcd_debugging_mvcc_slow_watcher_total 0\n")) {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s has not got %d watchers, all of them synced", s.Kind, n)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A compaction overtakes nobody who waits.
func TestLockCompaction(t *testing.T) {
	sameAnswersApart(t, func(w *lockWorld) {
		key := w.doLock("holder", "n", w.grant(60))
		lock := w.startLock(w.ctx, "n", w.grant(60))
		w.waitKeys("n", 2)
		campaign := w.startCampaign(w.ctx, "n", w.grant(60), "v")
		w.waitKeys("n", 3)
		o := w.observe("n")
		o.next()
		waitSynced(w.ctx, t, w.s, 3)
		for range 50 {
			w.put("another key", "v")
		}
		_, err := w.kv.Compact(w.ctx, &pb.CompactionRequest{Revision: w.revision(), Physical: true})
		must(t, err)
		w.doUnlock("unlock", key)
		key = w.join("lock", lock).(*lpb.LockResponse).Key
		o.next()
		w.doUnlock("unlock", key)
		w.join("campaign", campaign)
		o.next()
		o.cancel()
		o.next()
		waitSynced(w.ctx, t, w.s, 0)
	})
}

// Many that give up at once leave nothing behind.
func TestLockManyCancelled(t *testing.T) {
	const waiters = 2000
	_, cairn := bothServers(t)
	w := newLockWorld(t, cairn)
	name, lease := unique(t, "n"), w.grant(600)
	key := w.doLock("holder", name, lease)
	leases := make([]int64, 50)
	for i := range leases {
		leases[i] = w.grant(600)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	var waits []<-chan ended
	for i := range waiters {
		waits = append(waits, w.startLock(ctx, name, leases[i%len(leases)]))
	}
	w.waitKeys(name, len(leases)+1)
	cancel()
	for _, done := range waits {
		if e := <-done; status.Code(e.err) != codes.Canceled {
			t.Fatalf("%v, %v", e.r, e.err)
		}
	}
	w.doUnlock("unlock", key)
	for _, l := range leases { // What was cancelled before it waited is still there, as with etcd.
		w.revoke(l)
	}
	w.waitKeys(name, 0)
	w.doUnlock("unlock", w.doLock("lock", name, lease))
	w.revoke(lease)
	if last := w.lines[len(w.lines)-1]; !strings.HasPrefix(last, "unlock: @") {
		t.Error(last)
	}
}

// One lock, asked for through each member of a mixed cluster, whose leader dies while many wait.
func TestLockCluster(t *testing.T) {
	const each = 5
	harness.CairnBin(t)
	c := harness.StartCluster(t, []harness.Kind{harness.Cairn, harness.Etcd, harness.Cairn},
		"--heartbeat-interval=200", "--election-timeout=5000") // A pause of the machine is not to end a term.
	leader := c.WaitLeader()
	var worlds []*lockWorld
	for _, m := range c.Members {
		if m != leader {
			worlds = append(worlds, newLockWorld(t, m.Server))
		}
	}
	a := worlds[0]
	key := a.doLock("holder", "n", a.grant(600))
	type turn struct {
		world *lockWorld
		done  <-chan ended
	}
	var turns []turn
	for i := range each * len(worlds) {
		w := worlds[i%len(worlds)]
		turns = append(turns, turn{w, w.startLock(w.ctx, "n", w.grant(600))})
		a.waitKeys("n", i+2)
	}
	for _, m := range c.Members { // A read under way would fail with the leader, and its caller with it.
		if m != leader {
			waitSynced(a.ctx, t, m.Server, each)
		}
	}
	c.Kill(leader)
	c.WaitLeaderAmong(c.Running()...)
	for i, turn := range turns {
		w := worlds[(i+1)%len(worlds)]
		_, err := w.lock.Unlock(w.ctx, &lpb.UnlockRequest{Key: key})
		must(t, err)
		e := <-turn.done
		must(t, e.err)
		key = e.r.(*lpb.LockResponse).Key
		if keys := a.keys("n"); len(keys) != len(turns)-i || !bytes.Equal(keys[0], key) {
			t.Fatalf("turn %d: %q holds, %d keys, the oldest is %q", i, key, len(keys), keys[0])
		}
	}
}

// The lock is never held twice.
func TestLockTwoHundred(t *testing.T) {
	const lockers = 200
	etcd, cairn := bothServers(t)
	for _, s := range []*harness.Server{etcd, cairn} {
		name := unique(t, "%d", s.ClientPort)
		w := newLockWorld(t, s)
		leases := make([]int64, lockers)
		for i := range leases {
			leases[i] = w.grant(120)
		}
		var holders, turns atomic.Int64
		var revisions sync.Map
		var wg sync.WaitGroup
		begin := time.Now()
		for _, lease := range leases {
			wg.Add(1)
			go func() {
				defer wg.Done()
				r, err := w.lock.Lock(w.ctx, &lpb.LockRequest{Name: []byte(name), Lease: lease})
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				if _, twice := revisions.LoadOrStore(string(r.Key), true); twice {
					t.Errorf("%s twice", r.Key)
				}
				turns.Add(1)
				holders.Add(-1)
				if _, err := w.lock.Unlock(w.ctx, &lpb.UnlockRequest{Key: r.Key}); err != nil {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		t.Logf("%s: %d turns in %v", s.Kind, turns.Load(), time.Since(begin))
		if turns.Load() != lockers || len(w.keys(name)) != 0 {
			t.Errorf("%d turns, %d keys left", turns.Load(), len(w.keys(name)))
		}
		w.end()
	}
}

func TestElectionAnswers(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		w.doLeader("nobody", name)
		w.doProclaim("no leader", nil, "v")
		w.doResign("no leader", nil)
		w.doProclaim("empty leader", &epb.LeaderKey{}, "v")
		w.doResign("empty leader", &epb.LeaderKey{})
		lease := w.grant(60)
		wrong := &epb.LeaderKey{Name: []byte(name), Key: []byte(name + "/1"), Rev: 7, Lease: lease}
		w.doProclaim("not leader", wrong, "v")
		w.doResign("not leader", wrong)
		w.doProclaim("not there, missing lease", &epb.LeaderKey{Name: []byte(name), Key: []byte(name + "/1"), Lease: 7}, "v")
		w.doProclaim("not there", &epb.LeaderKey{Name: []byte(name), Key: []byte(name + "/1"), Lease: lease}, "v")
		w.doLeader("so leading", name)
		w.remove(name + "/1")
		w.doCampaign("missing lease", name, 77, "v")
		w.doCampaign("too long", name, lease, strings.Repeat("x", 1600000))

		leader := w.doCampaign("campaign", name, lease, "v")
		w.doLeader("leader", name)
		w.doCampaign("again", name, lease, "v")
		w.put(name, "another key")
		w.doCampaign("again, other value", name, lease, "w")
		w.doLeader("leader", name)
		w.doProclaim("proclaim", leader, "x")
		w.doProclaim("proclaim nothing", leader, "")
		w.doLeader("leader", name)
		other := w.grant(60)
		w.doProclaim("other lease", &epb.LeaderKey{Name: []byte("?"), Key: leader.Key, Rev: leader.Rev, Lease: other}, "y")
		w.doProclaim("missing lease", &epb.LeaderKey{Name: []byte("?"), Key: leader.Key, Rev: leader.Rev, Lease: 99}, "y")
		w.doProclaim("wrong revision", &epb.LeaderKey{Name: []byte("?"), Key: leader.Key, Rev: leader.Rev + 1, Lease: other}, "y")
		w.doLeader("leader", name)
		w.doResign("wrong revision", &epb.LeaderKey{Key: leader.Key, Rev: leader.Rev - 1, Lease: lease})
		w.doResign("resign", leader)
		w.doResign("resign again", leader)
		w.doProclaim("resigned", leader, "v")
		w.doLeader("nobody", name)
		w.doResign("lease granted", w.doCampaign("no lease", name, 0, "v"))
		w.doResign("without name", w.doCampaign("without name", "", lease, "v"))
		w.doLeader("nobody", "")
	})
}

// Proclaim and Resign without a lease grant one as well.
func TestElectionGrantsLease(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		before, err := w.leases.LeaseLeases(w.ctx, &pb.LeaseLeasesRequest{})
		must(t, err)
		lease := w.grant(60)
		leader := w.doCampaign("campaign", name, lease, "v")
		leader.Lease = 0
		w.doProclaim("proclaim", leader, "w")
		w.doLeader("moved to another lease", name)
		w.revoke(lease)
		w.doLeader("still there", name)
		w.doResign("resign", leader)
		after, err := w.leases.LeaseLeases(w.ctx, &pb.LeaseLeasesRequest{})
		must(t, err)
		had, more := map[int64]bool{}, 0 // Leases of other tests may end meanwhile.
		for _, l := range before.Leases {
			had[l.ID] = true
		}
		for _, l := range after.Leases {
			if !had[l.ID] {
				w.name(l.ID)
				more++
			}
		}
		w.say("%d more leases", more)
	})
}

func TestElectionContention(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		leader := w.doCampaign("first", name, w.grant(60), "v0")
		var waiters []<-chan ended
		for i := range 3 {
			waiters = append(waiters, w.startCampaign(w.ctx, name, w.grant(60), fmt.Sprint("v", i+1)))
			w.waitKeys(name, i+2)
		}
		for i, done := range waiters {
			w.doLeader("leader", name)
			w.doResign("resign", leader)
			leader = w.join(fmt.Sprint("candidate ", i), done).(*epb.CampaignResponse).Leader
		}
		w.doResign("last", leader)
	})
}

// etcd doesn't look again at the key of a candidate whose turn has come.
func TestElectionLeaseEndsWhileWaiting(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		leader := w.doCampaign("first", name, w.grant(60), "v")
		lease := w.grant(60)
		done := w.startCampaign(w.ctx, name, lease, "w")
		w.waitKeys(name, 2)
		w.revoke(lease)
		w.doResign("resign", leader)
		lost := w.join("revoked while waiting", done).(*epb.CampaignResponse).Leader
		w.doProclaim("proclaim", lost, "x")
		w.doLeader("nobody", name)
	})
}

// Leases that really run out while two campaign: of one who waits, whose turn comes all the same, and of a leader,
// which lets the next one lead.
func TestElectionLeaseExpires(t *testing.T) {
	waits, leads := unique(t, "waits"), unique(t, "leads")
	sameAnswers(t, func(w *lockWorld) {
		leader := w.doCampaign("first", waits, w.grant(60), "v")
		begin := time.Now()
		short, shorter := w.grant(10), w.grant(10)
		w.doCampaign("for ten seconds", leads, shorter, "v")
		expires := w.startCampaign(w.ctx, waits, short, "w")
		w.waitKeys(waits, 2)
		next := w.startCampaign(w.ctx, leads, w.grant(60), "w")
		w.waitKeys(leads, 2)
		w.join("after the leader's lease", next)
		w.waitKeys(waits, 1)
		if took := time.Since(begin); took < 9500*time.Millisecond || len(expires) > 0 {
			w.t.Errorf("leases of 10 s were over after %v; %d campaigns ended with them", took, len(expires))
		}
		w.doLeader("next", leads)
		w.doCampaign("expired lease", waits, short, "x")
		w.doResign("resign", leader)
		lost := w.join("expired while waiting", expires).(*epb.CampaignResponse).Leader
		w.doProclaim("proclaim", lost, "x")
		w.doLeader("nobody", waits)
	})
}

func TestElectionCancel(t *testing.T) {
	name := unique(t, "n")
	sameAnswersApart(t, func(w *lockWorld) {
		leader := w.doCampaign("first", name, w.grant(60), "v")
		ctx, cancel := context.WithCancel(w.ctx)
		done := w.startCampaign(ctx, name, w.grant(60), "w")
		w.waitKeys(name, 2)
		second := w.startCampaign(w.ctx, name, w.grant(60), "x")
		w.waitKeys(name, 3)
		waitSynced(w.ctx, t, w.s, 2)
		cancel()
		w.join("cancelled", done)
		w.waitKeys(name, 2)
		w.doResign("resign", leader)
		w.join("behind it", second)
		w.doLeader("leader", name)
	})
}

// observer notes what an Observe stream sends.
type observer struct {
	w      *lockWorld
	stream epb.Election_ObserveClient
	cancel context.CancelFunc
}

func (w *lockWorld) observe(name string) *observer {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	stream, err := w.election.Observe(ctx, &epb.LeaderRequest{Name: []byte(name)})
	must(w.t, err)
	return &observer{w: w, stream: stream, cancel: cancel}
}

func (o *observer) next() {
	r, err := o.stream.Recv()
	o.w.note("observed", r, err)
}

func TestElectionObserve(t *testing.T) {
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		first := w.grant(60)
		early := w.observe(name)
		leader := w.doCampaign("campaign", name, first, "v0")
		early.next()
		second := w.startCampaign(w.ctx, name, w.grant(60), "w0")
		w.waitKeys(name, 2)
		late := w.observe(name)
		late.next()
		for i := range 3 {
			w.put(name, "another key")
			w.doProclaim("proclaim", leader, fmt.Sprint("v", i+1))
			early.next()
			late.next()
		}
		w.doResign("resign", leader)
		leader = w.join("second", second).(*epb.CampaignResponse).Leader
		early.next()
		late.next()
		late.cancel()
		late.next()
		w.revoke(leader.Lease)
		w.doLeader("nobody", name)
		w.doCampaign("third", name, first, "x")
		early.next()
		early.cancel()
		early.next()
	})
}

// What was proclaimed while an observer did not read is all there, in order.
func TestElectionObserveMany(t *testing.T) {
	const n = 500
	name := unique(t, "n")
	sameAnswers(t, func(w *lockWorld) {
		leader := w.doCampaign("campaign", name, w.grant(60), "v")
		o := w.observe(name)
		o.next()
		value := bytes.Repeat([]byte("x"), 10000)
		for i := range n {
			_, err := w.election.Proclaim(w.ctx, &epb.ProclaimRequest{Leader: leader, Value: append(value, strconv.Itoa(i)...)})
			must(t, err)
		}
		for i := range n {
			r, err := o.stream.Recv()
			must(t, err)
			if want := strconv.Itoa(i); string(r.Kv.Value[len(value):]) != want {
				t.Fatalf("%q instead of %q", r.Kv.Value[len(value):], want)
			}
		}
		w.say("all")
		o.cancel()
	})
}

// A transaction of two operations is too many for a server that takes one.
func TestLockOperationsLimit(t *testing.T) {
	etcd, cairn := harness.StartForTest(t, harness.Etcd, "--max-txn-ops=1"), harness.StartForTest(t, harness.Cairn, "--max-txn-ops=1")
	compareScripts(t, etcd, cairn, func(w *lockWorld) {
		lease := w.grant(60)
		w.doLock("lock", "n", lease)
		w.doResign("resign", w.doCampaign("campaign", "n", lease, "v"))
	})
}

// A server that stops ends every wait; what the waiters had put is gone, what was held is still there.
func TestLockStop(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn, "--election-timeout=9000") // So long a stop waits for the disk.
	w := newLockWorld(t, s)
	w.doLock("holder", "n", w.grant(600))
	w.doCampaign("leader", "e", w.grant(600), "v")
	var waits []<-chan ended
	for i := range 20 {
		waits = append(waits, w.startLock(w.ctx, "n", w.grant(600)), w.startCampaign(w.ctx, "e", w.grant(600), "w"))
		w.waitKeys("n", i+2)
		w.waitKeys("e", i+2)
	}
	o := w.observe("e")
	o.next()
	begin := time.Now()
	_, err := s.Terminate()
	must(t, err)
	for _, done := range waits {
		if e := <-done; status.Code(e.err) != codes.Unavailable {
			t.Errorf("%v, %v", e.r, e.err)
		}
	}
	if _, err := o.stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	if took := time.Since(begin); took > 9*time.Second {
		t.Errorf("the stop took %v", took)
	}
	must(t, s.StartReady())
	again := newLockWorld(t, s)
	if locks, candidates := len(again.keys("n")), len(again.keys("e")); locks != 1 || candidates != 1 {
		t.Errorf("%d locks and %d candidates are left", locks, candidates)
	}
}
