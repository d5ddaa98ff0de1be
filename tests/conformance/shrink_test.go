// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// A difference after two thousand requests says little. With CAIRN_SHRINK=seconds the requests that led to the first
// difference of a world are replayed on fresh servers with parts left out, as long as some difference remains.
// Restarts are not replayed: a difference that needs one stays as it is.

// freshPair returns a function that starts a pair for a replay; a short election timeout makes it ready at once.
func freshPair(t *testing.T, subject harness.Kind) func() *pair {
	return func() *pair { return newPair(t, subject, "--heartbeat-interval=10", "--election-timeout=100") }
}

// replay sends steps to a fresh pair and returns the first difference.
func replay(open func() *pair, steps []Step) (string, int) {
	p := open()
	defer p.close()
	w := &world{pair: p, gen: newGenerator(0, 0), counts: map[string]*outcome{}, name: "replay"}
	report := ""
	w.report = func(s string) { report += s }
	for i, s := range steps {
		w.step = i + 1
		if c, ok := s.Req.(*pb.CompactionRequest); ok {
			s = Step{s.Kind, &pb.CompactionRequest{Revision: c.Revision, Physical: true}}
		}
		switch s.Kind {
		case kindPickedLease, kindShortLease:
			w.briefLease(s)
		default:
			oracle, subject := p.call(s.Kind, s.Req)
			if oracle.Code == codes.Unavailable {
				return "", 0 // The oracle itself is gone: not what is looked for.
			}
			w.compare(s, oracle, subject)
		}
		if report != "" {
			return report, i
		}
	}
	return "", 0
}

// shrink leaves out ever smaller parts of the steps while a difference remains.
func shrink(t *testing.T, open func() *pair, steps []Step, limit time.Duration) []Step {
	end := time.Now().Add(limit)
	report, at := replay(open, steps)
	if report == "" {
		t.Logf("the difference doesn't come back when the %d requests are replayed without restarts", len(steps))
		return nil
	}
	steps = steps[:at+1]
	trials := 0
	for size := len(steps) / 2; size > 0 && time.Now().Before(end); {
		shrunk := false
		for from := 0; from < len(steps)-1 && time.Now().Before(end); {
			to := min(from+size, len(steps)-1)
			candidate := append(append([]Step{}, steps[:from]...), steps[to:]...)
			trials++
			if r, at := replay(open, candidate); r != "" {
				steps, report, shrunk = candidate[:at+1], r, true
			} else {
				from = to
			}
		}
		if !shrunk || size > len(steps)/2 {
			size = min(size, len(steps)) / 2
		}
	}
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "  %s { %s }\n", s.Kind, brief(s.Req))
	}
	t.Logf("shrunk to %d requests in %d trials:\n%s%s", len(steps), trials, b.String(), report)
	return steps
}

// TestShrink plants a fault that needs two requests to show, a put and a read of what it put, in a sequence of two
// hundred, and checks that little more is left.
func TestShrink(t *testing.T) {
	fault := stateFaults()[1]
	var stop []func()
	open := func() *pair {
		p := freshPair(t, harness.Etcd)()
		x, err := newProxy(p.subject.conn)
		if err != nil {
			t.Fatal(err)
		}
		x.fault = &fault
		conn, err := harness.Dial(x.addr)
		if err != nil {
			t.Fatal(err)
		}
		stop = append(stop, x.server.Stop, func() { conn.Close() })
		p.subject.conn = conn
		return p
	}
	defer func() {
		for _, f := range stop {
			f()
		}
	}()
	p := open()
	w := &world{pair: p, gen: newGenerator(99, 0), requests: 1000, differences: 1, noRestarts: true, report: func(string) {}}
	if err := w.run(); err != nil || w.found == 0 {
		t.Fatalf("%v, %d differences", err, w.found)
	}
	p.close()
	if steps := shrink(t, open, w.trail, 40*time.Second); len(steps) < 2 || len(steps) > 4 {
		t.Errorf("%d requests became %d", len(w.trail), len(steps))
	}
}
