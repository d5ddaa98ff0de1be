// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"strings"
	"testing"

	"cairn/tests/harness"
)

// modelReader lets a model play the server.
type modelReader struct{ m *harness.Model }

func (r modelReader) head() (int64, int64, error) { return r.m.Current, r.m.Compacted, nil }

func (r modelReader) get(key string, revision int64) (*harness.KV, error) {
	return r.m.Get(key, revision), nil
}

func (r modelReader) all() (list []*harness.KV, err error) {
	for _, key := range r.m.Keys(r.m.Current) {
		kv := *r.m.Get(key, r.m.Current)
		list = append(list, &kv)
	}
	return list, nil
}

func (r modelReader) hash(revision int64) (uint32, error) { return r.m.HashKV(revision), nil }

// TestCheckerCatches plants one error at a time between a server and its history; each must be found.
func TestCheckerCatches(t *testing.T) {
	put := func(key, value string) *operation {
		return &operation{what: "put " + key, puts: []harness.Change{{Key: key, Value: []byte(value)}}}
	}
	del := func(key string) *operation {
		return &operation{what: "delete " + key, deletes: [][2]string{{key, ""}}}
	}
	for _, x := range []struct {
		name string
		// plan gets the list of done operations and the server, and may spoil both.
		spoil func(server *harness.Model, h *history)
		want  string
	}{
		{"nothing wrong", func(*harness.Model, *history) {}, ""},
		{"an unknown write that happened", func(s *harness.Model, h *history) {
			o := put("u", "x")
			s.Apply(o.puts...)
			h.ops = append(h.ops, o)
		}, ""},
		{"an unknown write that did not happen", func(s *harness.Model, h *history) {
			h.ops = append(h.ops, put("u", "x"), del("k1"))
		}, ""},
		{"an unknown delete of a range that happened", func(s *harness.Model, h *history) {
			s.Apply(harness.Change{Key: "k1", Delete: true}, harness.Change{Key: "k2", Delete: true})
			h.ops = append(h.ops, del("k1"), &operation{what: "range", deletes: [][2]string{{"k1", "k3"}}}, del("k2"))
		}, ""},
		{"a lost write", func(s *harness.Model, h *history) {
			o := put("k9", "x")
			o.answered, o.changed, o.revision = true, true, s.Current+1
			h.ops = append(h.ops, o)
		}, "lost"},
		{"a write from nowhere", func(s *harness.Model, h *history) {
			s.Apply(harness.Change{Key: "k1", Value: []byte("evil")})
		}, "by no write"},
		{"a write changed on the way", func(s *harness.Model, h *history) {
			s.Apply(harness.Change{Key: "u", Value: []byte("y")})
			h.ops = append(h.ops, put("u", "x"))
		}, "by no write"},
		{"an answered value changed", func(s *harness.Model, h *history) {
			o := put("k1", "x")
			o.answered, o.changed = true, true
			o.revision = s.Apply(harness.Change{Key: "k1", Value: []byte("z")})
			h.ops = append(h.ops, o)
		}, "key \"k1\""},
		{"a write done twice", func(s *harness.Model, h *history) {
			o := put("k1", "x")
			o.answered, o.changed = true, true
			o.revision = s.Apply(o.puts...)
			s.Apply(o.puts...)
			h.ops = append(h.ops, o)
		}, "by no write"},
		{"one revision given twice", func(s *harness.Model, h *history) {
			s.Apply(harness.Change{Key: "k1", Value: []byte("x")})
			for _, o := range []*operation{put("k1", "x"), put("k2", "x")} {
				o.answered, o.changed, o.revision = true, true, s.Current
				h.ops = append(h.ops, o)
			}
		}, "two writes"},
		{"the revision went back", func(s *harness.Model, h *history) { h.model.Apply(harness.Change{Key: "k1"}) }, "went back"},
		{"a compaction from nowhere", func(s *harness.Model, h *history) { s.Compact(3) }, "nobody asked"},
		{"a lost compaction", func(s *harness.Model, h *history) { h.model.Compact(3) }, "compact revision went back"},
		{"a lease lost", func(s *harness.Model, h *history) {
			o := &operation{what: "put", puts: []harness.Change{{Key: "k1", Value: []byte("x"), Lease: 5}}}
			o.answered, o.changed = true, true
			o.revision = s.Apply(harness.Change{Key: "k1", Value: []byte("x")})
			h.ops = append(h.ops, o)
		}, "lease 5"},
		{"a wrong previous version", func(s *harness.Model, h *history) {
			o := put("k1", "x")
			kv := *s.Get("k1", s.Current)
			kv.Version++
			o.answered, o.changed, o.asked, o.previous = true, true, true, &kv
			o.revision = s.Apply(o.puts...)
			h.ops = append(h.ops, o)
		}, "previous version"},
	} {
		t.Run(strings.ReplaceAll(x.name, " ", "-"), func(t *testing.T) {
			server, h := harness.NewModel(), newHistory(1)
			for i := 0; i < 8; i++ {
				o := put(fmt.Sprintf("k%d", i%4), fmt.Sprint(i))
				o.answered, o.changed = true, true
				o.revision = server.Apply(o.puts...)
				h.ops = append(h.ops, o)
			}
			if err := h.settle(modelReader{server}); err != nil {
				t.Fatal(err)
			}
			x.spoil(server, h)
			err := h.settle(modelReader{server})
			if x.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
				t.Errorf("want an error with %q, got %v", x.want, err)
			}
		})
	}
}

// TestCheckerComparesHashes gives the checker a server whose keys are right and whose hash is not.
func TestCheckerComparesHashes(t *testing.T) {
	server, h := harness.NewModel(), newHistory(1)
	for _, m := range []*harness.Model{server, h.model} {
		m.Apply(harness.Change{Key: "a", Value: []byte("1")})
	}
	err := h.settle(wrongHash{modelReader{server}})
	if err == nil || !strings.Contains(err.Error(), "HashKV") {
		t.Errorf("got %v", err)
	}
}

type wrongHash struct{ modelReader }

func (wrongHash) hash(int64) (uint32, error) { return 1, nil }
