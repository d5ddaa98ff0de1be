// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"flag"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"
)

// How long and with which members the tests run. The environment serves scripts, the flags a person:
//
//	go test ./cluster -run TestNemesis -v -timeout 0 -args -duration 3h -kinds cairn,etcd,etcd -seed 7
var (
	durationFlag = flag.Duration("duration", time.Duration(harness.EnvInt("CAIRN_CLUSTER_SECONDS", 600))*time.Second,
		"how long the nemesis tests run, all together; each fault gets one round at least")
	roundsFlag = flag.Int("rounds", 0, "end each nemesis test after so many rounds instead")
	kindsFlag  = flag.String("kinds", os.Getenv("CAIRN_CLUSTER"), "etcd, cairn, mixed, or a list like cairn,etcd,etcd")
	seedFlag   = flag.Uint64("seed", envSeed(), "of everything that is chosen at random; 0 takes a fresh one")
	onlyFlag   = flag.String("faults", "", "only these faults, separated by commas")
	killsFlag  = flag.Int("kills", harness.EnvInt("CAIRN_CLUSTER_KILLS", 10), "how often TestLeaderKills kills a leader")
)

func envSeed() uint64 {
	seed, _ := strconv.ParseUint(os.Getenv("CAIRN_SEED"), 0, 64)
	return seed
}

// newRand returns the test's source of random choices and prints its seed. When things happen is up to the machine,
// so a seed repeats the choices, not the run.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1e9
	}
	t.Logf("seed %d, kinds %q", seed, mode())
	return rand.New(rand.NewPCG(seed, 11))
}

// mode is etcd, cairn, mixed or a list. Where nothing is said it is cairn, or etcd if there is no Cairn.
func mode() string {
	switch {
	case *kindsFlag != "":
		return *kindsFlag
	case os.Getenv("CAIRN_BIN") != "":
		return string(harness.Cairn)
	}
	return string(harness.Etcd)
}

// mixed says whether members of both kinds may meet; where nothing is said they do in the tests that are about it.
func mixed() bool {
	return mode() != string(harness.Etcd) && (mode() != string(harness.Cairn) || *kindsFlag == "")
}

// kindsFor returns the kinds of the members of a cluster of some size.
func kindsFor(rng *rand.Rand, size int) []harness.Kind {
	var list []harness.Kind
	if names := strings.Split(mode(), ","); len(names) > 1 {
		for i := range size {
			list = append(list, harness.Kind(names[i%len(names)]))
		}
		return list
	}
	if mode() == string(harness.Cairn) {
		return slices.Repeat([]harness.Kind{harness.Cairn}, size)
	}
	first := rng.IntN(2)
	for i := range size {
		list = append(list, as([]harness.Kind{harness.Etcd, harness.Cairn}[(first+i)%2]))
	}
	return list
}

// as returns the kind that a test asks for if both kinds may run, else the one that may.
func as(kind harness.Kind) harness.Kind {
	if mixed() {
		return kind
	}
	return harness.Kind(mode())
}

func asAll(kinds ...harness.Kind) (list []harness.Kind) {
	for _, kind := range kinds {
		list = append(list, as(kind))
	}
	return list
}

// anyKind is for a member that takes another's place.
func anyKind(rng *rand.Rand) harness.Kind {
	if mode() == string(harness.Cairn) {
		return harness.Cairn
	}
	return as([]harness.Kind{harness.Etcd, harness.Cairn}[rng.IntN(2)])
}
