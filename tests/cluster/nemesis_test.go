// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestNemesis puts clusters of three and of five members through every fault once and then through random ones, also
// two at a time, until its share of -duration is used up.
func TestNemesis(t *testing.T) {
	sizes := []int{3, 5}
	for _, size := range sizes {
		t.Run(fmt.Sprintf("%d-members", size), func(t *testing.T) {
			nemesis(t, size, *durationFlag/time.Duration(len(sizes)))
		})
	}
}

func chosen(size int) (list []fault) {
	for _, f := range faults {
		if f.least <= size && (*onlyFlag == "" || strings.Contains(","+*onlyFlag+",", ","+f.name+",")) {
			list = append(list, f)
		}
	}
	return list
}

// shortLog makes members forget their log early, so that one that was away for a while comes back by snapshot. The
// clusters of five keep the defaults, and catch up by entries.
var shortLog = []string{"--snapshot-count=500", "--snapshot-catchup-entries=100"}

func nemesis(t *testing.T, size int, share time.Duration) {
	rng := newRand(t)
	var args []string
	if size == 3 {
		args = shortLog
	}
	g := newCampaign(t, rng, kindsFor(rng, size), args...)
	g.watched = true
	defer func() { g.in(t); g.report() }()
	list := chosen(size)
	first := append([]fault{}, list...)
	rng.Shuffle(len(first), func(i, j int) { first[i], first[j] = first[j], first[i] })
	for round := 0; !t.Failed(); round++ {
		if *roundsFlag > 0 && round >= *roundsFlag || *roundsFlag == 0 && round >= len(first) &&
			time.Since(g.start) > share {
			break
		}
		name, do := "", func(*load) {}
		if round < len(first) {
			f := first[round]
			name, do = f.name, func(l *load) { f.do(g, l) }
		} else {
			name, do = g.mixture(list)
		}
		t.Run(fmt.Sprintf("%03d-%s", round+1, name), func(t *testing.T) {
			g.in(t)
			g.during(do)
		})
	}
}

// mixture is a random fault, or a broken network and in it a fault of processes.
func (g *campaign) mixture(list []fault) (string, func(*load)) {
	f := list[g.rng.IntN(len(list))]
	if !networkFaults[f.name] || g.rng.IntN(2) == 0 {
		return f.name, func(l *load) { f.do(g, l) }
	}
	for range 100 {
		if second := list[g.rng.IntN(len(list))]; processFaults[second.name] {
			return f.name + "-and-" + second.name, func(l *load) { f.do(g, l); second.do(g, l) }
		}
	}
	return f.name, func(l *load) { f.do(g, l) }
}
