// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// write writes keys that are never used twice, two in a revision.
func (s *stock) write(who int) {
	for n := 0; !s.quiet.Load(); n++ {
		key, value := fmt.Sprintf("w/%d/%06d", who, n), fmt.Sprintf("%d.%d", who, n)
		resp, err := s.client.Txn(s.ctx).Then(clientv3.OpPut(key+"/a", value), clientv3.OpPut(key+"/b", value)).Commit()
		s.mu.Lock()
		if err == nil {
			s.made[key+"/a"], s.made[key+"/b"] = resp.Header.Revision, resp.Header.Revision
		} else {
			s.odd["writer: "+err.Error()]++
		}
		s.mu.Unlock()
		if err != nil && !explained(err) {
			s.t.Errorf("%s: an error that no fault explains: %v", key, err)
		}
		time.Sleep(20 * time.Millisecond) // It is not to be the load.
	}
}

// writesOn waits until some more writes were acknowledged.
func (s *stock) writesOn() {
	s.t.Helper()
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.made)
	}
	before := count()
	s.until("nothing is written", func() bool { return count() >= before+100 })
}

// watch runs etcdctl from a revision on, and again behind what the runs before have printed.
func (s *stock) watch(from int64) {
	name := fmt.Sprintf("watch from %d", from)
	s.watched[name] = from
	s.again(name, func(before []*tool) *tool {
		next := from
		for _, x := range before {
			if list, err := byEtcdctl(x.out.lines()); err == nil && len(list) > 0 {
				next = list[len(list)-1].revision + 1
			}
		}
		return s.etcdctl("watch", "--prefix", "w/", fmt.Sprintf("--rev=%d", next), "-w", "json")
	})
}

// watchPast runs one from an acknowledged write on.
func (s *stock) watchPast() {
	from := int64(0)
	s.mu.Lock()
	for _, revision := range s.made {
		from = revision // Any of them.
		break
	}
	s.mu.Unlock()
	s.watch(from)
}

// written reads all that was written, without a watch; what was acknowledged is among it.
func (s *stock) written() (list []printed) {
	s.t.Helper()
	s.g.c.WaitConverged()
	resp, err := s.client.Get(s.ctx, "w/", clientv3.WithPrefix())
	if err != nil {
		s.t.Fatal(err)
	}
	found := map[string]int64{}
	for _, kv := range resp.Kvs {
		if kv.Version != 1 {
			s.t.Errorf("%s was written %d times", kv.Key, kv.Version)
		}
		list = append(list, printed{string(kv.Key), string(kv.Value), kv.ModRevision})
		found[string(kv.Key)] = kv.ModRevision
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, revision := range s.made {
		if found[key] != revision {
			s.t.Errorf("%s was acknowledged at revision %d, and is there at %d", key, revision, found[key])
		}
	}
	slices.SortStableFunc(list, func(a, b printed) int { return int(a.revision - b.revision) })
	return list
}

func (s *stock) checkWatches() {
	s.t.Helper()
	want := s.written()
	for name, from := range s.watched {
		since := slices.DeleteFunc(slices.Clone(want), func(e printed) bool { return e.revision < from })
		var got []printed
		s.until(name+" has not printed everything", func() bool {
			got = nil
			for _, lines := range s.linesOf(name) {
				list, err := byEtcdctl(lines)
				if err != nil {
					s.t.Fatal(err)
				}
				got = append(got, list...)
			}
			return len(got) > 0 && got[len(got)-1].revision >= want[len(want)-1].revision
		})
		if err := checkPrinted(got, since); err != nil {
			s.t.Errorf("%s: %v", name, err)
		}
		s.t.Logf("%s printed %d events in %d runs", name, len(got), len(s.linesOf(name)))
	}
}
