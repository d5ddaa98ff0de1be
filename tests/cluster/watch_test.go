// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"testing"
	"time"
)

// TestWatchersThroughKills lets watchers watch through any member while the leader is killed, paused or asked to hand
// its lead on every few seconds, and followers too. Progress notifications come often.
func TestWatchersThroughKills(t *testing.T) {
	rng := newRand(t)
	g := newCampaign(t, rng, kindsFor(rng, 3), "--watch-progress-notify-interval=300ms")
	g.watched = true
	defer func() { g.in(t); g.report() }()
	harm := []func(*load){
		func(l *load) { g.kill(l, g.leader()) },
		func(*load) { g.pause(g.leader()) },
		func(l *load) { g.kill(l, g.follower()) },
		func(l *load) { terminateLeader(g, l) },
		func(l *load) { moveLeader(g, l) },
		func(*load) { g.pause(g.follower()) },
	}
	share := *durationFlag / 5
	for round := 0; round < 3 || time.Since(g.start) < share; round++ {
		do := harm[round%len(harm)]
		t.Run(fmt.Sprintf("%03d", round+1), func(t *testing.T) {
			g.in(t)
			g.during(func(l *load) {
				for range 2 {
					do(l)
					g.healProcesses()
				}
			})
		})
		if t.Failed() {
			return
		}
	}
}
