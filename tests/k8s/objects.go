// SPDX-License-Identifier: Apache-2.0

// Package k8s loads a data set shaped like a Kubernetes cluster's and uses it the way kube-apiserver does.
package k8s

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// resource is one kind of object: its share of all objects, how its names are spread, and how large its objects are.
type resource struct {
	name       string
	share      float64
	namespaced bool
	medianSize int
	leased     bool // Written with a lease, as events are.
}

// The mix of a busy cluster: pods, events and secrets make most of it; nodes and custom resources are large.
var resources = []resource{
	{"pods", 0.30, true, 4200, false},
	{"events", 0.18, true, 900, true},
	{"secrets", 0.12, true, 2600, false},
	{"configmaps", 0.10, true, 1800, false},
	{"replicasets", 0.08, true, 3400, false},
	{"endpointslices", 0.05, true, 1500, false},
	{"services/specs", 0.04, true, 1300, false},
	{"deployments", 0.04, true, 3600, false},
	{"leases", 0.03, true, 600, false},
	{"serviceaccounts", 0.03, true, 550, false},
	{"minions", 0.02, false, 9000, false},
	{"example.io/widgets", 0.01, true, 14000, false},
}

const (
	objectBytesMin = 500
	objectBytesMax = 20000
)

// object is one entry of the data set.
type object struct {
	key   string
	seed  uint64 // Makes the value, together with a generation number.
	size  int
	lease bool
}

// objects makes the keys of a data set from a seed. Values are made when they are needed, so that the set may be
// larger than memory.
func objects(seed uint64, count int) []object {
	rng := rand.New(rand.NewPCG(seed, 0))
	namespaces := make([]string, max(3, count/400))
	for i := range namespaces {
		namespaces[i] = fmt.Sprintf("%s-%s-%d", word(rng), word(rng), i)
	}
	list := make([]object, 0, count)
	used := map[string]bool{}
	for len(list) < count {
		r := pick(rng)
		key := "/registry/" + r.name + "/"
		if r.namespaced {
			// A few namespaces hold most of the objects.
			key += namespaces[int(float64(len(namespaces))*rng.Float64()*rng.Float64()*rng.Float64())] + "/"
		}
		key += fmt.Sprintf("%s-%s-%s", word(rng), suffix(rng, 9), suffix(rng, 5))
		if used[key] {
			continue
		}
		used[key] = true
		size := int(float64(r.medianSize) * (0.4 + rng.ExpFloat64()))
		list = append(list, object{key, rng.Uint64(), min(max(size, objectBytesMin), objectBytesMax), r.leased})
	}
	return list
}

func pick(rng *rand.Rand) resource {
	x := rng.Float64()
	for _, r := range resources {
		if x < r.share {
			return r
		}
		x -= r.share
	}
	return resources[0]
}

var words = strings.Fields(`api app auth billing cache cart catalog chat config core cron data db edge email event export
	feed file front gateway geo graph grid hub image import index ingest inventory job kafka ledger log mail map media
	metric mobile monitor mysql nginx node notify order payment policy portal postgres price proxy queue rabbit redis
	report router rule scheduler search session shop sink site stock store stream sync task token trace user vault video
	web worker`)

func word(rng *rand.Rand) string { return words[rng.IntN(len(words))] }

func suffix(rng *rand.Rand, n int) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[rng.IntN(len(letters))]
	}
	return string(b)
}

// value makes an object's content of a generation: Kubernetes' protobuf envelope around text that repeats field names
// and differs in names, ids, times and addresses, so it compresses as real objects do.
func (o *object) value(generation int) []byte {
	rng := rand.New(rand.NewPCG(o.seed, uint64(generation)))
	var b strings.Builder
	b.Grow(o.size + 200)
	b.WriteString("k8s\x00\n\x0f\n\x02v1\x12\x09")
	fmt.Fprintf(&b, `"metadata":{"name":%q,"uid":"%08x-%04x-%012x","generation":%d,"labels":{"app":%q,"tier":%q}},"spec":{`,
		o.key[strings.LastIndexByte(o.key, '/')+1:], rng.Uint32(), rng.Uint32()&0xffff, rng.Uint64()&0xffffffffffff,
		generation, word(rng), word(rng))
	for b.Len() < o.size {
		switch rng.IntN(5) {
		case 0:
			fmt.Fprintf(&b, `"containers":[{"name":%q,"image":"registry.example.com/%s/%s@sha256:%016x%016x",`+
				`"resources":{"limits":{"cpu":"%dm","memory":"%dMi"}}}],`, word(rng), word(rng), word(rng), rng.Uint64(),
				rng.Uint64(), 50*rng.IntN(80), 64*rng.IntN(64))
		case 1:
			fmt.Fprintf(&b, `"env":[{"name":"%s_%s","value":%q}],`, strings.ToUpper(word(rng)), strings.ToUpper(word(rng)),
				suffix(rng, 8+rng.IntN(24)))
		case 2:
			fmt.Fprintf(&b, `"conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-%02d-%02dT%02d:%02d:%02dZ"}],`,
				1+rng.IntN(12), 1+rng.IntN(28), rng.IntN(24), rng.IntN(60), rng.IntN(60))
		case 3:
			fmt.Fprintf(&b, `"podIP":"10.%d.%d.%d","hostIP":"192.168.%d.%d","nodeName":"node-%04d",`, rng.IntN(256), rng.IntN(256),
				rng.IntN(256), rng.IntN(256), rng.IntN(256), rng.IntN(5000))
		default:
			fmt.Fprintf(&b, `"managedFields":[{"manager":"kube-%s","operation":"Update","fieldsV1":{"f:metadata":{"f:labels":`+
				`{"f:app":{},"f:%s":{}}},"f:spec":{"f:%s":{}}}}],`, word(rng), word(rng), word(rng))
		}
	}
	return []byte(b.String()[:o.size])
}
