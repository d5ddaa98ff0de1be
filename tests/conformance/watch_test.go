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

// watchSteps is the length of one world of watches; CAIRN_WATCH_WORLDS says how many there are.
const watchSteps = 350

// watchKinds are what the worlds are like in turn.
var watchKinds = []struct {
	name   string
	notify bool
	large  bool // A long past, with fragments: etcd makes them of 512 KiB more than a request may have.
	args   []string
}{
	{name: "plain"},
	{name: "large", large: true, args: []string{"--max-request-bytes=65536"}},
	{name: "notifications", notify: true, args: []string{"--watch-progress-notify-interval=150ms"}},
}

func watchRun(t *testing.T, subject harness.Kind, seed uint64, worlds int) {
	only := os.Getenv("CAIRN_WORLD")
	for n := range worlds {
		if only != "" && only != strconv.Itoa(n) {
			continue
		}
		kind := watchKinds[n%len(watchKinds)]
		t.Run(fmt.Sprintf("%d-%s", n, kind.name), func(t *testing.T) {
			p := newPair(t, subject, kind.args...)
			defer p.close()
			start := time.Now()
			w, err := newWatchWorld(p, newGenerator(seed, uint64(n)), newHistory(), fmt.Sprintf("seed %d world %d", seed, n))
			if err != nil {
				t.Fatal(err)
			}
			defer w.close()
			w.notify = kind.notify
			if kind.large {
				err = w.past()
			}
			if err == nil {
				err = w.run(watchSteps)
			}
			if err == nil && !kind.notify {
				if err = w.restart(n%2 == 0); err == nil {
					err = w.run(watchSteps)
				}
			}
			t.Logf("%s: %.1f s, %d writes, %d revisions, compacted %d, %v", w.name, time.Since(start).Seconds(), w.writes,
				w.h.head, w.h.comp, w.counts)
			if err != nil {
				t.Fatalf("%v\nrepeat with CAIRN_SEED=%d CAIRN_WORLD=%d", err, seed, n)
			}
		})
	}
}

// TestWatchRandom compares watches on etcd and Cairn.
func TestWatchRandom(t *testing.T) {
	harness.CairnBin(t)
	watchRun(t, harness.Cairn, seedFromEnv(t), harness.EnvInt("CAIRN_WATCH_WORLDS", 6))
}

// TestWatchOracleAgainstItself proves that the comparison lets equal servers pass.
func TestWatchOracleAgainstItself(t *testing.T) {
	watchRun(t, harness.Etcd, seedFromEnv(t), harness.EnvInt("CAIRN_WATCH_SELF_WORLDS", 3))
}
