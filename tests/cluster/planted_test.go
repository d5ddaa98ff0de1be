// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestPlantedErrors makes a cluster do wrong on purpose, and demands that the verdict on the round says so: the load, the
// reading of the history and the checkers are tried together, on real processes.
func TestPlantedErrors(t *testing.T) {
	t.Run("stale-reads", func(t *testing.T) {
		rng := newRand(t)
		g := newCampaign(t, rng, kindsFor(rng, 3))
		g.lie = true
		var err error
		for tries := 0; len(lacks(err, "stale", "by order")) > 0 && tries < 6; tries++ { // A round may see too few stale reads.
			err = g.attempt(func(*load) { g.oneWay(g.follower(), false, true) })
		}
		demand(t, err, "stale", "by order")
	})
	t.Run("acknowledged-writes-lost", func(t *testing.T) {
		rng := newRand(t)
		g := newCampaign(t, rng, kindsFor(rng, 3))
		err := g.attempt(func(l *load) {
			for _, m := range g.c.Current() {
				g.c.Kill(m)
			}
			g.copyData(".old", "")
			for _, m := range g.c.Current() {
				g.c.Restart(m)
			}
			g.c.WaitReady(g.c.Current()...)
			g.waitAnswers(l, l.now(), 300)
			for _, m := range g.c.Current() {
				g.c.Kill(m)
			}
			g.copyData("", ".old")
		})
		demand(t, err, "by revision", "by order")
	})
}

func demand(t *testing.T, err error, phrases ...string) {
	t.Helper()
	for _, phrase := range lacks(err, phrases...) {
		t.Errorf("want a verdict with %q, got %.2000v", phrase, err)
	}
}

// lacks returns those of the phrases that a verdict does not have.
func lacks(err error, phrases ...string) []string {
	return slices.DeleteFunc(phrases, func(phrase string) bool { return err != nil && strings.Contains(err.Error(), phrase) })
}

// copyData makes each member's data folder, with one suffix, what it is with another.
func (g *campaign) copyData(to, from string) {
	g.t.Helper()
	for _, m := range g.c.Current() {
		if err := os.RemoveAll(m.DataDir() + to); err != nil {
			g.t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-a", m.DataDir()+from, m.DataDir()+to).CombinedOutput(); err != nil {
			g.t.Fatalf("%v: %s", err, out)
		}
	}
}
