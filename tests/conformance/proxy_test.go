// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// fault is a difference planted between a server and its client. Each function may be nil.
type fault struct {
	name     string
	request  func(req proto.Message)                       // Changes what the server gets.
	message  func(req, resp proto.Message, index int) bool // Changes an answer; says whether it did.
	failure  func(s *status.Status) *status.Status         // Changes an error.
	messages func(list []proto.Message) []proto.Message    // Changes the messages of a stream as a whole.
}

// proxy stands between a client and a real server and plants one fault at a time. It exists to prove that the
// comparison notices differences.
type proxy struct {
	backend grpc.ClientConnInterface
	server  *grpc.Server
	addr    string
	fault   *fault
	planted int // How many answers or requests were changed.
}

// rawCodec passes message bytes through.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("raw codec got %T", v)
	}
	return *b, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}

func (rawCodec) Name() string { return "proto" }

var _ encoding.Codec = rawCodec{}

func newProxy(backend grpc.ClientConnInterface) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{backend: backend, addr: listener.Addr().String()}
	p.server = grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(p.handle),
		grpc.MaxRecvMsgSize(1<<30))
	go p.server.Serve(listener)
	return p, nil
}

func methodByPath(path string) (method, string) {
	for kind, m := range methods {
		if m.path == path {
			return m, kind
		}
	}
	panic("no method " + path)
}

func (p *proxy) handle(_ any, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	m, kind := methodByPath(path)
	var raw []byte
	if err := stream.RecvMsg(&raw); err != nil {
		return err
	}
	req := requestOf(kind)
	if err := proto.Unmarshal(raw, req); err != nil {
		return err
	}
	if p.fault.request != nil {
		before := proto.Clone(req)
		p.fault.request(req)
		if !proto.Equal(before, req) {
			p.planted++
		}
	}
	list, err := p.forward(stream.Context(), m, req)
	for _, resp := range p.spoil(req, list) {
		out, err := proto.Marshal(resp)
		if err != nil {
			return err
		}
		if err := stream.SendMsg(&out); err != nil {
			return err
		}
	}
	if err != nil && p.fault.failure != nil {
		before := status.Convert(err)
		after := p.fault.failure(before)
		if after.Code() != before.Code() || after.Message() != before.Message() {
			p.planted++
		}
		return after.Err()
	}
	return err
}

func (p *proxy) forward(ctx context.Context, m method, req proto.Message) ([]proto.Message, error) {
	out, err := p.backend.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, m.path)
	if err == nil {
		err = out.SendMsg(req)
	}
	if err == nil {
		err = out.CloseSend()
	}
	var list []proto.Message
	for err == nil {
		resp := m.make()
		if err = out.RecvMsg(resp); err == nil {
			list = append(list, resp)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if len(list) == 0 && err == nil {
		err = status.Error(codes.Internal, "the backend sent nothing")
	}
	return list, err
}

func (p *proxy) spoil(req proto.Message, list []proto.Message) []proto.Message {
	if p.fault.messages != nil && len(list) > 1 {
		n := len(list)
		if list = p.fault.messages(list); len(list) != n {
			p.planted++
		}
	}
	for i, resp := range list {
		if p.fault.message != nil && p.fault.message(req, resp, i) {
			p.planted++
		}
	}
	return list
}
