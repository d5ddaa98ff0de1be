// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// learner is the life of one: too many of them, promotion too early and in time, and what it refuses to do.
func learner(s *script) {
	leader, follower := s.member(0), s.member(1)
	m := s.c.Place(s.member(2).Kind)
	s.c.Announce(leader, m, true)
	s.listThrough(follower)
	s.add(leader, true)
	s.add(follower, true)
	for _, through := range []*harness.Member{leader, follower} {
		_, err := through.Client().MemberPromote(s.ctx(), &pb.MemberPromoteRequest{ID: m.ID})
		s.try(err, "promote the unstarted learner through %s", through.Name)
	}
	_, err := pb.NewMaintenanceClient(leader.Conn).MoveLeader(s.ctx(), &pb.MoveLeaderRequest{TargetID: m.ID})
	s.try(err, "move leader to a learner")
	s.must(m.Start())
	s.c.WaitFollows(m)
	s.listThrough(follower)
	status, err := m.Status()
	s.must(err)
	s.say(fmt.Sprint(status.IsLearner, status.Leader == leader.ID, status.Errors), "status of the learner")
	refusals(s, m)
	s.say(health(s, m), "health of the learner")
	_, err = m.Client().MemberPromote(s.ctx(), &pb.MemberPromoteRequest{ID: m.ID})
	s.try(err, "promote the learner through itself")
	s.c.Promote(follower, m)
	s.listThrough(m)
	_, err = m.Client().MemberPromote(s.ctx(), &pb.MemberPromoteRequest{ID: m.ID})
	s.try(err, "promote it again")
	_, err = m.KV().Put(s.ctx(), &pb.PutRequest{Key: []byte("k")})
	s.try(err, "put through it")
	s.c.MoveLeader(m)
	s.add(follower, true)
}

func health(s *script, m *harness.Member) string {
	client := http.Client{Timeout: 20 * time.Second}
	var words []string
	for _, path := range []string{"/health", "/health?serializable=true", "/livez", "/readyz"} {
		resp, err := client.Get(m.URL() + path)
		s.must(err)
		body, err := io.ReadAll(resp.Body)
		s.must(err)
		resp.Body.Close()
		checks := strings.Split(strings.TrimSpace(string(body)), "\n") // In no order.
		sort.Strings(checks)
		words = append(words, fmt.Sprintf("%s %s %q", path, resp.Status, checks))
	}
	return strings.Join(words, ", ")
}

// refusals asks a learner for everything.
func refusals(s *script, m *harness.Member) {
	ctx := s.ctx()
	kv, lease, maintenance := m.KV(), pb.NewLeaseClient(m.Conn), pb.NewMaintenanceClient(m.Conn)
	cluster, auth := m.Client(), pb.NewAuthClient(m.Conn)
	key := []byte("k")
	for _, x := range []struct {
		name string
		do   func() error
	}{
		{"Range", func() error { _, err := kv.Range(ctx, &pb.RangeRequest{Key: key}); return err }},
		{"Range serializable", func() error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: key, Serializable: true})
			return err
		}},
		{"Put", func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: key}); return err }},
		{"DeleteRange", func() error { _, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key}); return err }},
		{"Txn", func() error { _, err := kv.Txn(ctx, &pb.TxnRequest{}); return err }},
		{"Txn of a serializable Range", func() error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{
				RequestRange: &pb.RangeRequest{Key: key, Serializable: true}}}}})
			return err
		}},
		{"Compact", func() error { _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 1}); return err }},
		{"LeaseGrant", func() error { _, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 100}); return err }},
		{"LeaseRevoke", func() error { _, err := lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 1}); return err }},
		{"LeaseTimeToLive", func() error {
			_, err := lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 1})
			return err
		}},
		{"LeaseLeases", func() error { _, err := lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{}); return err }},
		{"LeaseKeepAlive", func() error {
			stream, err := lease.LeaseKeepAlive(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
		{"Watch", func() error {
			stream, err := pb.NewWatchClient(m.Conn).Watch(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
		{"MemberList", func() error { _, err := cluster.MemberList(ctx, &pb.MemberListRequest{}); return err }},
		{"MemberList linearizable", func() error {
			_, err := cluster.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
			return err
		}},
		{"MemberAdd", func() error {
			_, err := cluster.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}})
			return err
		}},
		{"MemberRemove", func() error { _, err := cluster.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 1}); return err }},
		{"MemberUpdate", func() error { _, err := cluster.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: 1}); return err }},
		{"Status", func() error { _, err := maintenance.Status(ctx, &pb.StatusRequest{}); return err }},
		{"Alarm", func() error { _, err := maintenance.Alarm(ctx, &pb.AlarmRequest{}); return err }},
		{"Defragment", func() error { _, err := maintenance.Defragment(ctx, &pb.DefragmentRequest{}); return err }},
		{"Hash", func() error { _, err := maintenance.Hash(ctx, &pb.HashRequest{}); return err }},
		{"HashKV", func() error { _, err := maintenance.HashKV(ctx, &pb.HashKVRequest{}); return err }},
		{"MoveLeader", func() error {
			_, err := maintenance.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 1})
			return err
		}},
		{"Downgrade", func() error {
			_, err := maintenance.Downgrade(ctx, &pb.DowngradeRequest{Version: "3.6.0"})
			return err
		}},
		{"AuthStatus", func() error { _, err := auth.AuthStatus(ctx, &pb.AuthStatusRequest{}); return err }},
		{"UserList", func() error { _, err := auth.UserList(ctx, &pb.AuthUserListRequest{}); return err }},
		{"Authenticate", func() error {
			_, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "u", Password: "p"})
			return err
		}},
	} {
		s.try(x.do(), "learner, %s", x.name)
	}
}
