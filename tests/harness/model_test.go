// SPDX-License-Identifier: Apache-2.0

package harness

import "testing"

func put(key, value string, lease ...int64) Change {
	c := Change{Key: key, Value: []byte(value)}
	if len(lease) > 0 {
		c.Lease = lease[0]
	}
	return c
}

func del(key string) Change { return Change{Key: key, Delete: true} }

func wantHash(t *testing.T, m *Model, revision int64, want uint32) {
	t.Helper()
	if got := m.HashKV(revision); got != want {
		t.Errorf("HashKV(%d) at current %d compacted %d: got %d, want %d", revision, m.Current, m.Compacted, got, want)
	}
}

// The values were taken from a running etcd 3.7.1.
func TestModelHashHistory(t *testing.T) {
	m := NewModel()
	wantHash(t, m, 1, 1084519789)
	m.Apply(put("a", "1"))
	wantHash(t, m, 2, 2587454935)
	m.Apply(put("a", "2"))
	wantHash(t, m, 3, 535221974)
	m.Apply(put("b", "x"))
	wantHash(t, m, 4, 1523780942)
	m.Apply(del("a"))
	wantHash(t, m, 5, 3909293975)
	wantHash(t, m, 4, 1523780942)
	m.Apply(put("c", "y"))
	wantHash(t, m, 6, 180387283)
	m.Compact(5)
	wantHash(t, m, 6, 2618167811)
	wantHash(t, m, 5, 3966414695)
	m.Apply(put("a", "3"))
	wantHash(t, m, 7, 3721109742)
	m.Apply(del("a"), del("b"), del("c"))
	wantHash(t, m, 8, 3572419029)
	m.Compact(8)
	wantHash(t, m, 8, 1084519789)
}

func TestModelHashEmptyKeepSet(t *testing.T) {
	m := NewModel()
	m.Apply(put("a", "1"))
	m.Compact(2)
	m.Apply(del("a"))
	wantHash(t, m, 3, 3520211144)
}

func TestModelHashDeleteAndRecreate(t *testing.T) {
	m := NewModel()
	m.Apply(put("n", "1", 5))
	m.Apply(put("n", "2", 5))
	m.Apply(del("n"), put("n", "3"))
	m.Apply(put("n", "4"), del("n"))
	m.Apply(put("n", "5"))
	m.Apply(del("n"), put("n", "3"), del("n"))
	m.Apply(put("o", "5"))
	m.Apply(put("n", "6"))
	wantHash(t, m, 9, 3649426182)
	m.Apply(del("n"), del("o"), put("n", "7"))
	wantHash(t, m, 10, 389787376)
}

func TestModelRevisions(t *testing.T) {
	m := NewModel()
	if m.Apply(del("a")) != 1 {
		t.Error("a removal of nothing took a revision")
	}
	m.Apply(put("a", "1"))
	m.Apply(put("a", "2"), put("b", "1"))
	m.Apply(del("a"))
	if kv := m.Get("a", 3); kv == nil || kv.Version != 2 || kv.Create != 2 || kv.Mod != 3 {
		t.Errorf("a at 3: %+v", kv)
	}
	if kv := m.Get("a", 4); kv != nil {
		t.Errorf("a at 4: %+v", kv)
	}
	if keys := m.Keys(3); len(keys) != 2 || keys[0] != "a" || keys[1] != "b" {
		t.Errorf("keys at 3: %q", keys)
	}
}
