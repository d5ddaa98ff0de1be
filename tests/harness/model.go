// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sort"

	"google.golang.org/protobuf/encoding/protowire"
)

// Model is etcd's multi-version store as its published behaviour describes it, kept as plainly as possible: every
// record in revision order, and for each key its generations. It answers what HashKV must answer, and what a range
// at a revision must hold. It is slow and takes no shortcuts that a server under test might take too.
//
// Invariants:
//
//  1. Records ascend by (main, sub).
//  2. A generation but the last is never empty and ends with its tombstone; the last is empty when the key is gone.
//  3. Current never falls.
type Model struct {
	Current   int64
	Compacted int64 // -1 before the first compaction.

	records []record
	keys    map[string]*keyHistory
}

// KV is one version of a key.
type KV struct {
	Key, Value           []byte
	Create, Mod, Version int64
	Lease                int64
	sub                  int64
}

// Change is one put or, when Delete is set, one removal.
type Change struct {
	Key    string
	Value  []byte
	Lease  int64
	Delete bool
}

type record struct {
	main, sub int64
	tombstone bool
	kv        KV
}

type keyHistory struct {
	generations [][]int64Pair
}

type int64Pair struct{ main, sub int64 }

// NewModel returns an empty store.
func NewModel() *Model {
	return &Model{Current: 1, Compacted: -1, keys: map[string]*keyHistory{}}
}

// Apply makes the changes of one applied entry; they all get the next main revision. A removal of a missing key
// changes nothing and takes no sub revision, and when nothing changes the revision stays.
func (m *Model) Apply(changes ...Change) int64 {
	main, sub := m.Current+1, int64(0)
	for _, c := range changes {
		if m.change(main, sub, c) {
			sub++
		}
	}
	if sub > 0 {
		m.Current = main
	}
	return m.Current
}

func (m *Model) change(main, sub int64, c Change) bool {
	live := m.live(c.Key)
	if c.Delete {
		if live == nil {
			return false
		}
		m.append(record{main: main, sub: sub, tombstone: true, kv: KV{Key: []byte(c.Key)}})
		h := m.keys[c.Key]
		h.generations = append(h.generations, nil)
		return true
	}
	kv := KV{Key: []byte(c.Key), Value: c.Value, Create: main, Mod: main, Version: 1, Lease: c.Lease, sub: sub}
	if live != nil {
		kv.Create, kv.Version = live.Create, live.Version+1
	}
	m.append(record{main: main, sub: sub, kv: kv})
	return true
}

func (m *Model) append(r record) {
	m.records = append(m.records, r)
	key := string(r.kv.Key)
	h := m.keys[key]
	if h == nil {
		h = &keyHistory{generations: make([][]int64Pair, 1)}
		m.keys[key] = h
	}
	last := len(h.generations) - 1
	h.generations[last] = append(h.generations[last], int64Pair{r.main, r.sub})
}

func (m *Model) live(key string) *KV {
	h := m.keys[key]
	if h == nil {
		return nil
	}
	last := h.generations[len(h.generations)-1]
	if len(last) == 0 {
		return nil
	}
	return &m.find(last[len(last)-1]).kv
}

func (m *Model) find(p int64Pair) *record {
	i := sort.Search(len(m.records), func(i int) bool {
		r := &m.records[i]
		return r.main > p.main || r.main == p.main && r.sub >= p.sub
	})
	return &m.records[i]
}

// Get returns the key's version at a revision, nil when there is none. Only revisions from Compacted on make sense.
func (m *Model) Get(key string, revision int64) *KV {
	h := m.keys[key]
	if h == nil {
		return nil
	}
	for g := len(h.generations) - 1; g >= 0; g-- {
		revs := h.generations[g]
		for i := len(revs) - 1; i >= 0; i-- {
			if revs[i].main > revision {
				continue
			}
			r := m.find(revs[i])
			if r.tombstone {
				return nil
			}
			return &r.kv
		}
	}
	return nil
}

// Keys returns the keys that are live at a revision, sorted.
func (m *Model) Keys(revision int64) []string {
	var keys []string
	for key := range m.keys {
		if m.Get(key, revision) != nil {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	return keys
}

// pick finds the generation and the place in it that a revision selects; place is -1 when it selects nothing.
func (h *keyHistory) pick(revision int64) (generation, place int) {
	last := len(h.generations) - 1
	for generation = 0; generation < last; generation++ {
		revs := h.generations[generation]
		if revs[len(revs)-1].main >= revision {
			break
		}
	}
	revs := h.generations[generation]
	for place = len(revs) - 1; place >= 0; place-- {
		if revs[place].main <= revision {
			break
		}
	}
	return generation, place
}

// keep returns what HashKV at a revision takes from below the compact revision.
func (m *Model) keep(revision int64) map[int64Pair]bool {
	keep := map[int64Pair]bool{}
	for _, h := range m.keys {
		g, p := h.pick(revision)
		if p < 0 {
			continue
		}
		endsGeneration := g != len(h.generations)-1 && p == len(h.generations[g])-1
		if !endsGeneration {
			keep[h.generations[g][p]] = true
		}
	}
	return keep
}

// Compact drops what a finished compaction at the revision drops. It must be between Compacted and Current.
func (m *Model) Compact(revision int64) {
	available := map[int64Pair]bool{}
	for key, h := range m.keys {
		g, p := h.pick(revision)
		if p >= 0 {
			available[h.generations[g][p]] = true
			h.generations[g] = h.generations[g][p:]
		}
		h.generations = h.generations[g:]
		if len(h.generations) == 1 && len(h.generations[0]) == 0 {
			delete(m.keys, key)
		}
	}
	kept := m.records[:0]
	for _, r := range m.records {
		if r.main > revision || available[int64Pair{r.main, r.sub}] {
			kept = append(kept, r)
		}
	}
	m.records = kept
	m.Compacted = revision
}

// HashKV returns the hash at a revision as a server answers that has no cached compaction hash for it.
func (m *Model) HashKV(revision int64) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, []byte("key"))
	keep := m.keep(revision)
	for i := range m.records {
		r := &m.records[i]
		if r.main > revision {
			break
		}
		if r.main <= m.Compacted && len(keep) > 0 && !keep[int64Pair{r.main, r.sub}] {
			continue
		}
		if r.main == m.Compacted && r.tombstone {
			continue
		}
		sum = crc32.Update(sum, table, r.keyBytes())
		sum = crc32.Update(sum, table, r.valueBytes())
	}
	return sum
}

func (r *record) keyBytes() []byte {
	b := make([]byte, 0, 18)
	b = binary.BigEndian.AppendUint64(b, uint64(r.main))
	b = append(b, '_')
	b = binary.BigEndian.AppendUint64(b, uint64(r.sub))
	if r.tombstone {
		b = append(b, 't')
	}
	return b
}

func (r *record) valueBytes() []byte {
	b := protowire.AppendTag(nil, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, r.kv.Key)
	if r.tombstone {
		return b
	}
	for field, v := range []int64{2: r.kv.Create, 3: r.kv.Mod, 4: r.kv.Version} {
		if v != 0 {
			b = protowire.AppendTag(b, protowire.Number(field), protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(v))
		}
	}
	if len(r.kv.Value) > 0 {
		b = protowire.AppendTag(b, 5, protowire.BytesType)
		b = protowire.AppendBytes(b, r.kv.Value)
	}
	if r.kv.Lease != 0 {
		b = protowire.AppendTag(b, 6, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(r.kv.Lease))
	}
	return b
}

// Same says whether a version as a client sees it is this one.
func (kv *KV) Same(key, value []byte, create, mod, version, lease int64) error {
	if !bytes.Equal(kv.Key, key) || !bytes.Equal(kv.Value, value) || kv.Create != create || kv.Mod != mod ||
		kv.Version != version || kv.Lease != lease {
		return fmt.Errorf("key %q: want value %.40q create %d mod %d version %d lease %d, "+
			"got key %q value %.40q create %d mod %d version %d lease %d", kv.Key, kv.Value, kv.Create, kv.Mod,
			kv.Version, kv.Lease, key, value, create, mod, version, lease)
	}
	return nil
}
