// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var rewriteFlag = flag.Bool("rewrite", false, "write what etcd answers into testdata/membership")

// sections are scripts about membership, each on a new cluster of three. What etcd 3.7.1 makes of them is kept in
// testdata/membership/NAME.txt; etcd is run beside Cairn all the same, so that the files stay true.
var sections = []struct {
	name string
	run  func(*script)
}{
	{"requests", requests},
	{"learner", learner},
	{"quorum", quorum},
	{"removed", removed},
	{"etcdctl", throughEtcdctl},
	{"join", joins},
}

func TestMembership(t *testing.T) {
	clusters := [][]harness.Kind{{harness.Etcd, harness.Etcd, harness.Etcd}}
	if mode() != string(harness.Etcd) {
		clusters = append(clusters, kindsFor(newRand(t), 3))
	}
	for _, section := range sections {
		t.Run(section.name, func(t *testing.T) {
			for _, kinds := range clusters {
				t.Run(fmt.Sprintf("%s-%s-%s", kinds[0], kinds[1], kinds[2]), func(t *testing.T) {
					t.Parallel() // They wait for time-outs most of the time.
					s := newScript(t, kinds)
					section.run(s)
					compare(t, filepath.Join("testdata", "membership", section.name+".txt"), s.text.String())
				})
			}
		})
	}
}

func compare(t *testing.T, path, got string) {
	t.Helper()
	if *rewriteFlag {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, have := strings.Split(string(data), "\n"), strings.Split(got, "\n")
	for i := 0; i < max(len(want), len(have)); i++ {
		w, h := "(nothing)", "(nothing)"
		if i < len(want) {
			w = want[i]
		}
		if i < len(have) {
			h = have[i]
		}
		if w != h {
			t.Errorf("%s:%d:\nwant %s\n got %s", path, i+1, w, h)
		}
	}
}

// requests are right and wrong ones to a healthy cluster.
func requests(s *script) {
	leader, follower := s.member(0), s.member(1)
	for _, m := range s.c.Members {
		s.listThrough(m)
	}
	for _, url := range []string{"", "foo", "127.0.0.1:1", "ftp://127.0.0.1:1", "http://127.0.0.1", "http://127.0.0.1:1/",
		"http://127.0.0.1:1/path", "http://:1", "http://127.0.0.1:x"} {
		s.add(leader, false, url)
	}
	_, err := leader.Client().MemberAdd(s.ctx(), &pb.MemberAddRequest{})
	s.try(err, "add no address")
	s.add(leader, false, s.nowhere(), "foo")
	for _, m := range []*harness.Member{leader, follower} {
		s.add(m, false, s.member(2).PeerURL())
		s.add(m, true, s.member(2).PeerURL())
		s.add(m, false, s.nowhere(), s.member(2).PeerURL())
		s.add(m, false, s.nowhere())
		late, early := s.nowhere(), s.nowhere()
		s.add(m, false, early, late)
		twice := s.nowhere()
		s.add(m, true, twice, twice)

		for _, id := range []uint64{0, 0xabc, 1<<64 - 1} {
			_, err := m.Client().MemberRemove(s.ctx(), &pb.MemberRemoveRequest{ID: id})
			s.try(err, "remove %d through %s", id, m.Name)
			_, err = m.Client().MemberPromote(s.ctx(), &pb.MemberPromoteRequest{ID: id})
			s.try(err, "promote %d through %s", id, m.Name)
			_, err = m.Client().MemberUpdate(s.ctx(), &pb.MemberUpdateRequest{ID: id, PeerURLs: []string{"http://127.0.0.1:1"}})
			s.try(err, "update %d through %s", id, m.Name)
			_, err = pb.NewMaintenanceClient(m.Conn).MoveLeader(s.ctx(), &pb.MoveLeaderRequest{TargetID: id})
			s.try(err, "move leader to %d through %s", id, m.Name)
		}
		// The leader is in step with itself; another voter might lag just now, which is another refusal.
		_, err := m.Client().MemberPromote(s.ctx(), &pb.MemberPromoteRequest{ID: leader.ID})
		s.try(err, "promote a voter through %s", m.Name)
	}
	_, err = pb.NewMaintenanceClient(follower.Conn).MoveLeader(s.ctx(), &pb.MoveLeaderRequest{TargetID: follower.ID})
	s.try(err, "move leader through a follower")
	_, err = pb.NewMaintenanceClient(leader.Conn).MoveLeader(s.ctx(), &pb.MoveLeaderRequest{TargetID: leader.ID})
	s.try(err, "move leader to itself")
	updates(s, leader)
	updates(s, follower)
	for _, m := range s.c.Members {
		s.listThrough(m)
	}
}

// updates changes peer addresses; where members are not known to be reached any more, for a moment only.
func updates(s *script, through *harness.Member) {
	m := s.member(2)
	for _, urls := range [][]string{
		{s.member(1).PeerURL()}, {m.PeerURL(), s.member(0).PeerURL()}, {m.PeerURL()}, {m.PeerURL(), "http://127.0.0.1:1"},
		{m.PeerURL()},
	} {
		resp, err := through.Client().MemberUpdate(s.ctx(), &pb.MemberUpdateRequest{ID: m.ID, PeerURLs: urls})
		s.try(err, "update %s to %s through %s", m.Name, s.plain(strings.Join(urls, " ")), through.Name)
		if err == nil {
			s.say(s.list(resp.Members), "its answer")
		}
	}
}

// TestUpdateOfBadAddresses gives a member no address or a bad one. etcd 3.7.1 takes it, and then every member but the
// one concerned ends; so it is asked of a Cairn cluster only, which must refuse what MemberAdd refuses.
func TestUpdateOfBadAddresses(t *testing.T) {
	if mode() == string(harness.Etcd) {
		t.Skip("etcd ends when it is asked this; -kinds cairn or mixed")
	}
	s := newScript(t, []harness.Kind{harness.Cairn, harness.Cairn, as(harness.Etcd)})
	for _, urls := range [][]string{{}, {""}, {"foo"}, {"http://127.0.0.1:1/"}, {s.member(2).PeerURL(), "foo"}} {
		for _, m := range s.c.Members[:2] {
			_, err := m.Client().MemberUpdate(s.ctx(), &pb.MemberUpdateRequest{ID: s.member(2).ID, PeerURLs: urls})
			if want := "InvalidArgument: etcdserver: given member URLs are invalid"; outcome(err) != want {
				t.Errorf("%q: want %s, got %s", urls, want, outcome(err))
			}
		}
	}
	for _, m := range s.c.Members {
		if err := m.Barrier(10 * time.Second); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
}
