// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"sort"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// world is one random sequence against one fresh pair of servers.
type world struct {
	pair *pair
	gen  *generator

	requests    int // How many to send.
	differences int // How many to find before giving up.
	report      func(string)
	name        string // Seed and world, for reports.
	noRestarts  bool

	step       int
	found      int
	split      bool // The two states have parted: nothing after it means anything.
	compacting int  // Steps left until a background compaction is waited for; 0 when there is none.
	counts     map[string]*outcome
	txnTrue    int
	trail      []Step
	repeats    map[string]int
}

// A cause that shows again and again is reported this often in a world; the rest is only counted.
const repeatsShown = 2

type outcome struct{ ok, failed int }

const hashEvery = 250

// run sends the sequence. It returns an error only when the machinery failed, not for differences.
func (w *world) run() error {
	w.counts = map[string]*outcome{}
	restarts := map[int]bool{w.requests / 3: true, w.requests * 2 / 3: true}
	for w.step = 1; w.step <= w.requests && w.found < w.differences && !w.split; w.step++ {
		s := w.gen.Next()
		if w.compacting > 0 && (s.Kind == "HashKV" || s.Kind == "Compact" || w.compacting == 1) {
			w.settle()
		} else if w.compacting > 0 {
			w.compacting--
		}
		w.trail = append(w.trail, s)
		if err := w.take(s); err != nil {
			return err
		}
		if w.step%hashEvery == 0 {
			w.settle()
			w.hashes()
		}
		if restarts[w.step] && !w.noRestarts {
			if err := w.restart(); err != nil {
				return err
			}
		}
	}
	return w.alive()
}

func (w *world) take(s Step) error {
	switch s.Kind {
	case kindPickedLease, kindShortLease:
		w.briefLease(s)
	default:
		oracle, subject := w.pair.call(s.Kind, s.Req)
		w.pair.noteLease(s, oracle)
		w.count(s, oracle)
		w.gen.Observe(s, oracle)
		w.compare(s, oracle, subject)
		if c, ok := s.Req.(*pb.CompactionRequest); ok && oracle.Code == codes.OK && !c.Physical {
			w.compacting = 1 + w.gen.rng.IntN(7)
		}
	}
	if w.found > 0 {
		return w.alive()
	}
	return nil
}

func (w *world) alive() error {
	if !w.pair.oracle.server.Alive() {
		return fmt.Errorf("%s step %d: the oracle has ended\n%s", w.name, w.step, w.pair.oracle.server.LogTail(40))
	}
	if !w.pair.subject.server.Alive() {
		w.found++
		w.split = true
		w.report(fmt.Sprintf("%s step %d: the server under test has ended\n%s", w.name, w.step,
			w.pair.subject.server.LogTail(40)))
	}
	return nil
}

func (w *world) count(s Step, a Answer) {
	o := w.counts[s.Kind]
	if o == nil {
		o = &outcome{}
		w.counts[s.Kind] = o
	}
	if a.Code == codes.OK {
		o.ok++
		if resp, ok := a.Messages[0].(*pb.TxnResponse); ok && resp.Succeeded {
			w.txnTrue++
		}
	} else {
		o.failed++
	}
}

// compare reports a difference between two answers to a step and then looks whether the states still agree.
func (w *world) compare(s Step, oracle, subject Answer) bool {
	complaint := ""
	if !same(normal(s.Kind, oracle), normal(s.Kind, subject), w.pair.slack) {
		complaint = "the answers differ"
	} else if s.Kind == "LeaseLeases" {
		if err := w.pair.leaseOrder(subject); err != nil {
			complaint = err.Error()
		}
	}
	if complaint == "" {
		return true
	}
	class := s.Kind + subject.Text + fmt.Sprint(strings.HasPrefix(complaint, "lease"))
	if w.repeats == nil {
		w.repeats = map[string]int{}
	}
	if w.repeats[class]++; w.repeats[class] > repeatsShown {
		w.checkSplit()
		return false
	}
	w.found++
	w.report(fmt.Sprintf("%s step %d: %s to %s { %s }\n etcd:\n%s cairn:\n%s%s", w.name, w.step, complaint, s.Kind,
		brief(s.Req), oracle, subject, apart(normal(s.Kind, oracle), normal(s.Kind, subject))))
	w.checkSplit()
	return false
}

// checkSplit finds out whether the two states have parted, so that one cause isn't reported twenty times.
func (w *world) checkSplit() {
	head := &pb.HashKVRequest{}
	all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	for _, s := range []Step{{"HashKV", head}, {"Range", all}, {"LeaseLeases", &pb.LeaseLeasesRequest{}}} {
		oracle, subject := w.pair.call(s.Kind, s.Req)
		if !same(normal(s.Kind, oracle), normal(s.Kind, subject), w.pair.slack) {
			w.split = true
		}
	}
}

// briefLease grants a lease that must not live long, asks for it and revokes it, with each side's own id.
func (w *world) briefLease(s Step) {
	grant := s.Req.(*pb.LeaseGrantRequest)
	start := time.Now()
	oracle, subject := w.pair.call("LeaseGrant", grant)
	w.count(s, oracle)
	ids := [2]int64{}
	for i, a := range []Answer{oracle, subject} {
		if a.Code != codes.OK {
			continue
		}
		resp := a.Messages[0].(*pb.LeaseGrantResponse)
		ids[i] = resp.ID
		if s.Kind == kindPickedLease && resp.ID > 0 {
			resp.ID = 1
		}
	}
	w.compare(s, oracle, subject)
	for _, kind := range []string{"LeaseTimeToLive", "LeaseKeepAlive", "LeaseRevoke"} {
		requests := [2]proto.Message{}
		for i, id := range ids {
			switch kind {
			case "LeaseTimeToLive":
				requests[i] = &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}
			case "LeaseKeepAlive":
				requests[i] = &pb.LeaseKeepAliveRequest{ID: id}
			default:
				requests[i] = &pb.LeaseRevokeRequest{ID: id}
			}
		}
		oracle := call(w.pair.oracle.conn, kind, requests[0])
		subject := call(w.pair.subject.conn, kind, requests[1])
		if time.Since(start) >= time.Second { // So much more of one side's lease may have passed, or all of it.
			call(w.pair.oracle.conn, "LeaseRevoke", &pb.LeaseRevokeRequest{ID: ids[0]})
			call(w.pair.subject.conn, "LeaseRevoke", &pb.LeaseRevokeRequest{ID: ids[1]})
			return
		}
		for _, a := range []Answer{oracle, subject} {
			if len(a.Messages) == 1 {
				if resp, ok := a.Messages[0].(*pb.LeaseTimeToLiveResponse); ok && s.Kind == kindPickedLease {
					resp.ID = 1
				}
				if resp, ok := a.Messages[0].(*pb.LeaseKeepAliveResponse); ok && s.Kind == kindPickedLease {
					resp.ID = 1
				}
			}
		}
		w.compare(Step{kind, requests[0]}, oracle, subject)
	}
}

// settle waits for a compaction that runs in the background, since HashKV at its revision, and whether the next
// compaction's hash is kept, depend on how far it has got. etcd answers a physical compaction at a revision that is
// already compacted when the running one is done.
func (w *world) settle() {
	if w.compacting == 0 {
		return
	}
	w.compacting = 0
	barrier := Step{"Compact", &pb.CompactionRequest{Revision: w.gen.comp, Physical: true}}
	oracle, subject := w.pair.call(barrier.Kind, barrier.Req)
	w.compare(barrier, oracle, subject)
	hash := &pb.HashKVRequest{Revision: w.gen.comp}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		oracle, subject := w.pair.call("HashKV", hash)
		if same(normal("HashKV", oracle), normal("HashKV", subject), 0) {
			return
		}
	}
}

// hashes compares HashKV at the interesting revisions.
func (w *world) hashes() {
	g := w.gen
	revisions := []int64{0, g.cur, g.comp, g.comp + 1}
	low := max(g.comp, 1)
	for i := 0; i < 4; i++ {
		revisions = append(revisions, low+g.rng.Int64N(g.cur-low+1))
	}
	for _, r := range revisions {
		s := Step{"HashKV", &pb.HashKVRequest{Revision: r}}
		oracle, subject := w.pair.call(s.Kind, s.Req)
		w.compare(s, oracle, subject)
	}
}

// restart restarts both servers and compares all that must have survived.
func (w *world) restart() error {
	w.settle()
	kill := w.gen.chance(500)
	if err := w.pair.restart(kill); err != nil {
		return fmt.Errorf("%s step %d, restart (kill -9: %v): %w", w.name, w.step, kill, err)
	}
	w.hashes()
	all := []byte{0}
	steps := []Step{
		{"Range", &pb.RangeRequest{Key: all, RangeEnd: all}},
		{"Range", &pb.RangeRequest{Key: all, RangeEnd: all, Revision: max(1, w.gen.comp), Serializable: true}},
		{"LeaseLeases", &pb.LeaseLeasesRequest{}},
		{"MemberList", &pb.MemberListRequest{}},
	}
	for _, id := range w.gen.leases {
		steps = append(steps, Step{"LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}})
	}
	for _, s := range steps {
		oracle, subject := w.pair.call(s.Kind, s.Req)
		if !w.compare(s, oracle, subject) {
			w.report(fmt.Sprintf("(that was after a restart, kill -9: %v)", kill))
		}
	}
	return nil
}

// summary says how many requests of each kind succeeded and failed.
func (w *world) summary() string {
	var kinds []string
	for kind := range w.counts {
		kinds = append(kinds, kind)
	}
	sort.Strings(kinds)
	var b strings.Builder
	for _, kind := range kinds {
		fmt.Fprintf(&b, " %s %d+%d", kind, w.counts[kind].ok, w.counts[kind].failed)
	}
	fmt.Fprintf(&b, " (txns that succeeded: %d)", w.txnTrue)
	for class, n := range w.repeats {
		if n > repeatsShown {
			fmt.Fprintf(&b, "; %d more differences like those in %s", n-repeatsShown, class)
		}
	}
	return b.String()
}
