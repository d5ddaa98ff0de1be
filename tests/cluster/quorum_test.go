// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
)

// quorum is about what the cluster refuses to do to its own majority.
func quorum(s *script) {
	m0, m1, m2 := s.member(0), s.member(1), s.member(2)
	one, two := s.c.Place(m2.Kind), s.c.Place(m2.Kind)
	s.c.Announce(m0, one, false)
	s.listThrough(m1)
	s.add(m0, true)
	s.c.Announce(m0, two, false)
	for _, learner := range []bool{false, true} {
		_, err := m0.Client().MemberAdd(s.ctx(), &pb.MemberAddRequest{PeerURLs: []string{s.nowhere()}, IsLearner: learner})
		s.try(err, "add while two of five are unstarted, learner: %v", learner)
	}
	s.try(removal(s, m0, m1), "remove a started member while two are unstarted")
	s.try(removal(s, m0, one), "remove an unstarted member")
	s.try(removal(s, m0, two), "remove the other")

	s.c.Kill(m2)
	s.waitLost(m0, m2)
	for _, learner := range []bool{false, true} {
		_, err := m0.Client().MemberAdd(s.ctx(),
			&pb.MemberAddRequest{PeerURLs: []string{s.nowhere()}, IsLearner: learner})
		s.try(err, "add while one of three is down, learner: %v", learner)
	}
	s.try(removal(s, m0, m1), "remove a live member while one of three is down")
	s.try(removal(s, m0, m0), "remove the leader while one of three is down")
	s.try(s.patiently(func() error { return removal(s, m0, m2) }), "remove the one that is down")
	m2.Removed = true
	s.listThrough(m1)
	s.try(s.patiently(func() error { return removal(s, m0, m1) }), "remove one of two")
	s.listThrough(m0)
	s.try(removal(s, m0, m0), "remove the last one")

	second := s.c.Place(m2.Kind)
	s.c.Announce(m0, second, false)
	s.listThroughLocally(m0)
	lonely(s, m0)
	s.must(second.Start())
	s.c.WaitReady(m0, second)
	_, err := second.KV().Put(s.ctx(), &pb.PutRequest{Key: []byte("k")})
	s.try(err, "put once the second one runs")
	s.listThrough(second)
}

func removal(s *script, through, m *harness.Member) error {
	_, err := through.Client().MemberRemove(s.ctx(), &pb.MemberRemoveRequest{ID: m.ID})
	return err
}

// waitLost waits until a member's metrics say that it has lost another.
func (s *script) waitLost(m, gone *harness.Member) {
	s.t.Helper()
	want := fmt.Sprintf(`etcd_network_active_peers{Local="%x",Remote="%x"} 0`, m.ID, gone.ID)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(m.URL() + "/metrics")
		if err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && strings.Contains(string(body), want+"\n") {
			return
		}
	}
	s.t.Fatalf("the metrics of %s don't say %s", m.Name, want)
}

func (s *script) listThroughLocally(m *harness.Member) {
	s.t.Helper()
	resp, err := m.Client().MemberList(s.ctx(), &pb.MemberListRequest{})
	s.must(err)
	s.say(s.list(resp.Members), "list through %s, not linearizable", m.Name)
}

// lonely asks a member that has lost its quorum for what needs one and what doesn't.
func lonely(s *script, m *harness.Member) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		status, err := m.Status()
		if err == nil && status.Leader == 0 {
			s.say(fmt.Sprintf("%q", status.Errors), "status without a leader, errors")
			break
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("it still leads: %v, %v", status, err)
		}
	}
	needed := metadata.AppendToOutgoingContext(s.ctx(), "hasleader", "true")
	kv, key := m.KV(), []byte("k")
	calls := []struct {
		name string
		do   func() error
	}{
		{"put", func() error { _, err := kv.Put(s.ctx(), &pb.PutRequest{Key: key}); return err }},
		{"put that asks for a leader", func() error { _, err := kv.Put(needed, &pb.PutRequest{Key: key}); return err }},
		{"range", func() error { _, err := kv.Range(s.ctx(), &pb.RangeRequest{Key: key}); return err }},
		{"range, serializable", func() error {
			_, err := kv.Range(s.ctx(), &pb.RangeRequest{Key: key, Serializable: true})
			return err
		}},
		{"range, serializable, that asks for a leader", func() error {
			_, err := kv.Range(needed, &pb.RangeRequest{Key: key, Serializable: true})
			return err
		}},
		{"watch that asks for a leader", func() error {
			stream, err := pb.NewWatchClient(m.Conn).Watch(needed)
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
		{"lease grant", func() error {
			_, err := pb.NewLeaseClient(m.Conn).LeaseGrant(s.ctx(), &pb.LeaseGrantRequest{TTL: 100})
			return err
		}},
		{"lease keep-alive that asks for a leader", func() error {
			stream, err := pb.NewLeaseClient(m.Conn).LeaseKeepAlive(needed)
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
		{"member list, linearizable", func() error {
			_, err := m.Client().MemberList(s.ctx(), &pb.MemberListRequest{Linearizable: true})
			return err
		}},
		{"member promote", func() error {
			_, err := m.Client().MemberPromote(s.ctx(), &pb.MemberPromoteRequest{ID: m.ID})
			return err
		}},
		{"move leader", func() error {
			_, err := pb.NewMaintenanceClient(m.Conn).MoveLeader(s.ctx(), &pb.MoveLeaderRequest{TargetID: m.ID})
			return err
		}},
	}
	results := make([]string, len(calls))
	var wg sync.WaitGroup
	for i, x := range calls { // At once, since some take as long as a request may take.
		wg.Add(1)
		go func() {
			defer wg.Done()
			start := time.Now()
			results[i] = outcome(x.do())
			if time.Since(start) > 4*time.Second {
				results[i] += " (late)"
			}
		}()
	}
	wg.Wait()
	for i, x := range calls {
		s.say(results[i], "without a leader, %s", x.name)
	}
	s.say(health(s, m), "health without a leader")
}

const removedPhrase = "the member has been permanently removed from the cluster"

// removed is about members that learn that they are none any more.
func removed(s *script) {
	m0, m1, m2 := s.member(0), s.member(1), s.member(2)
	s.try(s.patiently(func() error { return removal(s, m0, m2) }), "remove a follower")
	s.say(s.waitExit(m2), "its process")
	s.say(s.logged(m2, removedPhrase), "and")
	s.try(removal(s, m0, m2), "remove it again")
	s.must(m2.Start())
	s.waitExit(m2) // By an error or in good order: both happen.
	s.say(s.logged(m2, removedPhrase), "started again, it ends and")
	s.listThrough(m1)
	s.try(s.patiently(func() error { return removal(s, m1, m0) }), "remove the leader through the other")
	s.say(s.waitExit(m0), "its process")
	s.say(s.logged(m0, removedPhrase), "and")
	s.c.WaitLeaderAmong(m1)
	s.listThrough(m1)
	_, err := m1.KV().Put(s.ctx(), &pb.PutRequest{Key: []byte("k")})
	s.try(err, "put through the last one")
	again := s.c.Place(m2.Kind)
	s.c.Announce(m1, again, false)
	s.must(again.Start())
	s.c.WaitReady(again, m1)
	s.listThrough(again)
}
