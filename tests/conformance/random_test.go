// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"cairn/tests/harness"
)

// One world in CI: long enough for history to build up, short enough that a difference in one leaves others.
const worldRequests = 2500

func seedFromEnv(t *testing.T) uint64 {
	if v, err := strconv.ParseUint(os.Getenv("CAIRN_SEED"), 0, 64); err == nil {
		return v
	}
	return uint64(time.Now().UnixNano()) % 1e9
}

func newPair(t *testing.T, subject harness.Kind, args ...string) *pair {
	p := &pair{expiry: map[int64]time.Time{}, ttl: map[int64]int64{}}
	p.oracle.server = harness.NewForTest(t, harness.Etcd, args...)
	p.subject.server = harness.NewForTest(t, subject, args...)
	err := p.both(func(s *side) error {
		if err := s.server.StartReady(); err != nil {
			return err
		}
		return s.connect()
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// randomRun sends requests in worlds of worldRequests and returns how many differences it found.
func randomRun(t *testing.T, subject harness.Kind, seed uint64, requests, differences int, report func(string)) int {
	only := os.Getenv("CAIRN_WORLD")
	found := 0
	for n, left := 0, requests; left > 0 && found < differences; n++ {
		size := min(left, worldRequests)
		left -= size
		if only != "" && only != strconv.Itoa(n) {
			continue
		}
		p := newPair(t, subject)
		w := &world{
			pair: p, gen: newGenerator(seed, uint64(n)), requests: size, differences: differences - found,
			report: report, name: fmt.Sprintf("seed %d world %d", seed, n),
		}
		start := time.Now()
		err := w.run()
		t.Logf("%s: %d requests in %.1f s, revision %d, compacted %d, succeeded+refused:%s", w.name, w.step-1,
			time.Since(start).Seconds(), w.gen.cur, w.gen.comp, w.summary())
		if err != nil {
			t.Fatal(err)
		}
		p.close()
		if seconds := harness.EnvInt("CAIRN_SHRINK", 0); w.found > 0 && seconds > 0 && found == 0 {
			shrink(t, freshPair(t, subject), w.trail, time.Duration(seconds)*time.Second)
		}
		found += w.found
	}
	return found
}

// TestRandom is the conformance run: CAIRN_REQUESTS requests (20,000) from CAIRN_SEED. A difference is reported
// with the world and step it happened in; CAIRN_SEED and CAIRN_WORLD repeat it, CAIRN_SHRINK=60 looks for a minute for
// fewer requests that show it.
func TestRandom(t *testing.T) {
	harness.CairnBin(t)
	seed := seedFromEnv(t)
	requests := harness.EnvInt("CAIRN_REQUESTS", 20000)
	t.Logf("CAIRN_SEED=%d, %d requests", seed, requests)
	found := randomRun(t, harness.Cairn, seed, requests, 20, func(s string) { t.Error(s) })
	if found > 0 {
		t.Fatalf("%d differences; repeat with CAIRN_SEED=%d CAIRN_REQUESTS=%d and CAIRN_WORLD=the world named above",
			found, seed, requests)
	}
}

// TestOracleAgainstItself proves that the comparison lets equal servers pass: two etcd servers must not differ.
func TestOracleAgainstItself(t *testing.T) {
	seed := seedFromEnv(t)
	requests := harness.EnvInt("CAIRN_SELF_REQUESTS", worldRequests)
	t.Logf("CAIRN_SEED=%d, %d requests", seed, requests)
	randomRun(t, harness.Etcd, seed, requests, 20, func(s string) { t.Error(s) })
}
