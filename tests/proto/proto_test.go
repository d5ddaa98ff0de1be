// SPDX-License-Identifier: Apache-2.0

// Package proto_test compares the .proto files of api/proto with the descriptors that the published
// Go modules of etcd, of its raft library and of gRPC register: every message, field, enum value
// and method, both ways. Comments and options (HTTP mappings, version marks) are not compared.
package proto_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	_ "go.etcd.io/etcd/api/v3/authpb"
	_ "go.etcd.io/etcd/api/v3/etcdserverpb"
	_ "go.etcd.io/etcd/api/v3/membershippb"
	_ "go.etcd.io/etcd/api/v3/mvccpb"
	_ "go.etcd.io/etcd/api/v3/versionpb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	_ "go.etcd.io/etcd/server/v3/lease/leasepb"
	_ "go.etcd.io/raft/v3/raftpb"
	_ "google.golang.org/grpc/health/grpc_health_v1"
)

// protoDir is where our files are, seen from this package.
const protoDir = "../../api/proto"

// packages lists every protobuf package that must agree, and whether it has services.
var packages = []struct {
	name     protoreflect.FullName
	services int
}{
	{"authpb", 0},
	{"etcdserverpb", 6},
	{"grpc.health.v1", 1},
	{"leasepb", 0},
	{"membershippb", 0},
	{"mvccpb", 0},
	{"raftpb", 0},
	{"v3electionpb", 1},
	{"v3lockpb", 1},
	{"versionpb", 0},
}

// facts maps "kind full.name" to everything about that element which the wire, JSON or a client's
// generated code can tell.
type facts map[string]string

func (f facts) addFile(file protoreflect.FileDescriptor) {
	f.addEnums(file.Enums())
	f.addMessages(file.Messages())
	f.addExtensions(file.Extensions())
	for i := 0; i < file.Services().Len(); i++ {
		service := file.Services().Get(i)
		f["service "+string(service.FullName())] = fmt.Sprintf("%d methods", service.Methods().Len())
		for j := 0; j < service.Methods().Len(); j++ {
			m := service.Methods().Get(j)
			f["method "+string(m.FullName())] = fmt.Sprintf("(%s stream=%t) returns (%s stream=%t)",
				m.Input().FullName(), m.IsStreamingClient(), m.Output().FullName(), m.IsStreamingServer())
		}
	}
}

func (f facts) addMessages(messages protoreflect.MessageDescriptors) {
	for i := 0; i < messages.Len(); i++ {
		m := messages.Get(i)
		f["message "+string(m.FullName())] = fmt.Sprintf("%s, %d fields, map entry %t, reserved %s %v",
			m.ParentFile().Syntax(), m.Fields().Len(), m.IsMapEntry(), reservedNames(m), reservedRanges(m))
		for j := 0; j < m.Fields().Len(); j++ {
			f.addField("field ", m.Fields().Get(j))
		}
		for j := 0; j < m.Oneofs().Len(); j++ {
			o := m.Oneofs().Get(j)
			f["oneof "+string(o.FullName())] = fmt.Sprintf("%d fields, synthetic %t", o.Fields().Len(), o.IsSynthetic())
		}
		f.addEnums(m.Enums())
		f.addMessages(m.Messages())
		f.addExtensions(m.Extensions())
	}
}

func (f facts) addField(kind string, field protoreflect.FieldDescriptor) {
	typeName := ""
	if field.Message() != nil {
		typeName = string(field.Message().FullName())
	}
	if field.Enum() != nil {
		typeName = string(field.Enum().FullName())
	}
	oneof := "none"
	if o := field.ContainingOneof(); o != nil {
		oneof = string(o.Name())
	}
	f[kind+string(field.FullName())] = fmt.Sprintf(
		"number %d, %s %s %s, packed %t, presence %t, default %q, oneof %s, json %s, of %s",
		field.Number(), field.Cardinality(), field.Kind(), typeName, field.IsPacked(), field.HasPresence(),
		field.Default().String(), oneof, field.JSONName(), field.ContainingMessage().FullName())
}

func (f facts) addExtensions(extensions protoreflect.ExtensionDescriptors) {
	for i := 0; i < extensions.Len(); i++ {
		f.addField("extension ", extensions.Get(i))
	}
}

func (f facts) addEnums(enums protoreflect.EnumDescriptors) {
	for i := 0; i < enums.Len(); i++ {
		e := enums.Get(i)
		f["enum "+string(e.FullName())] = fmt.Sprintf("%s, %d values", e.ParentFile().Syntax(), e.Values().Len())
		for j := 0; j < e.Values().Len(); j++ {
			v := e.Values().Get(j)
			f["value "+string(e.FullName())+"."+string(v.Name())] = fmt.Sprintf("%d", v.Number())
		}
	}
}

func reservedNames(m protoreflect.MessageDescriptor) []string {
	names := []string{}
	for i := 0; i < m.ReservedNames().Len(); i++ {
		names = append(names, string(m.ReservedNames().Get(i)))
	}
	sort.Strings(names)
	return names
}

func reservedRanges(m protoreflect.MessageDescriptor) [][2]protoreflect.FieldNumber {
	ranges := [][2]protoreflect.FieldNumber{}
	for i := 0; i < m.ReservedRanges().Len(); i++ {
		ranges = append(ranges, m.ReservedRanges().Get(i))
	}
	return ranges
}

// differences lists what only one side has and what both describe differently, sorted.
func differences(ours, theirs facts) []string {
	lines := []string{}
	for key, want := range theirs {
		if got, ok := ours[key]; !ok {
			lines = append(lines, fmt.Sprintf("missing: %s: %s", key, want))
		} else if got != want {
			lines = append(lines, fmt.Sprintf("differs: %s: have %s; want %s", key, got, want))
		}
	}
	for key, got := range ours {
		if _, ok := theirs[key]; !ok {
			lines = append(lines, fmt.Sprintf("extra: %s: %s", key, got))
		}
	}
	sort.Strings(lines)
	return lines
}

// compile runs protoc over our files. protoc's own descriptor.proto, which version.proto extends,
// comes from the Go runtime, so that no further package needs to be installed.
func compile(t *testing.T) *descriptorpb.FileDescriptorSet {
	t.Helper()
	sources, err := filepath.Glob(filepath.Join(protoDir, "*.proto"))
	if err != nil || len(sources) == 0 {
		t.Fatalf("no .proto files in %s: %v", protoDir, err)
	}
	dir := t.TempDir()
	google := filepath.Join(dir, "google.bin")
	base, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(descriptorpb.File_google_protobuf_descriptor_proto),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(google, base, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "cairn.bin")
	args := []string{"-I" + protoDir, "--descriptor_set_in=" + google, "--include_imports", "--descriptor_set_out=" + out}
	for _, source := range sources {
		args = append(args, filepath.Base(source))
	}
	if text, err := exec.Command("protoc", args...).CombinedOutput(); err != nil {
		t.Fatalf("protoc: %v\n%s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		t.Fatal(err)
	}
	return set
}

// factsOf collects the facts of every package in a descriptor set, google.protobuf excepted.
func factsOf(t *testing.T, set *descriptorpb.FileDescriptorSet) map[protoreflect.FullName]facts {
	t.Helper()
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	all := map[protoreflect.FullName]facts{}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if file.Package() != "google.protobuf" {
			if all[file.Package()] == nil {
				all[file.Package()] = facts{}
			}
			all[file.Package()].addFile(file)
		}
		return true
	})
	return all
}

func registered(name protoreflect.FullName) facts {
	f := facts{}
	protoregistry.GlobalFiles.RangeFilesByPackage(name, func(file protoreflect.FileDescriptor) bool {
		f.addFile(file)
		return true
	})
	return f
}

func TestDescriptorsEqualThePublishedModules(t *testing.T) {
	ours := factsOf(t, compile(t))
	for _, p := range packages {
		t.Run(string(p.name), func(t *testing.T) {
			theirs := registered(p.name)
			services := 0
			for key := range theirs {
				if strings.HasPrefix(key, "service ") {
					services++
				}
			}
			if len(theirs) == 0 || services != p.services {
				t.Fatalf("the published module registers %d elements with %d services, want %d services",
					len(theirs), services, p.services)
			}
			for _, line := range differences(ours[p.name], theirs) {
				t.Error(line)
			}
			t.Logf("%d elements compared", len(theirs))
			delete(ours, p.name)
		})
	}
	for name := range ours {
		t.Errorf("package %s is ours only", name)
	}
}

// TestEveryChangeIsSeen plants one change of each kind in our own descriptors and expects the
// comparison to report it.
func TestEveryChangeIsSeen(t *testing.T) {
	clean := compile(t)
	changes := []struct {
		name  string
		want  string
		apply func(set *descriptorpb.FileDescriptorSet)
	}{
		{"field dropped", "missing: field etcdserverpb.PutRequest.ignore_lease", func(set *descriptorpb.FileDescriptorSet) {
			m := message(set, "rpc.proto", "PutRequest")
			m.Field = m.Field[:len(m.Field)-1]
		}},
		{"field added", "extra: field mvccpb.KeyValue.colour", func(set *descriptorpb.FileDescriptorSet) {
			m := message(set, "kv.proto", "KeyValue")
			field := proto.Clone(m.Field[0]).(*descriptorpb.FieldDescriptorProto)
			field.Name, field.JsonName, field.Number = proto.String("colour"), proto.String("colour"), proto.Int32(9)
			m.Field = append(m.Field, field)
		}},
		{"number", "differs: field raftpb.HardState.vote", func(set *descriptorpb.FileDescriptorSet) {
			message(set, "raft.proto", "HardState").Field[1].Number = proto.Int32(7)
		}},
		{"type", "differs: field authpb.Role.name", func(set *descriptorpb.FileDescriptorSet) {
			message(set, "auth.proto", "Role").Field[0].Type = descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum()
		}},
		{"label", "differs: field raftpb.HardState.term", func(set *descriptorpb.FileDescriptorSet) {
			message(set, "raft.proto", "HardState").Field[0].Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		}},
		{"enum value", "differs: value etcdserverpb.AlarmType.CORRUPT", func(set *descriptorpb.FileDescriptorSet) {
			file(set, "rpc.proto").EnumType[0].Value[2].Number = proto.Int32(5)
		}},
		{"message dropped", "missing: message etcdserverpb.EmptyResponse", func(set *descriptorpb.FileDescriptorSet) {
			f := file(set, "raft_internal.proto")
			for i, m := range f.MessageType {
				if m.GetName() == "EmptyResponse" {
					f.MessageType = append(f.MessageType[:i], f.MessageType[i+1:]...)
					return
				}
			}
		}},
		{"streaming", "differs: method etcdserverpb.KV.RangeStream", func(set *descriptorpb.FileDescriptorSet) {
			file(set, "rpc.proto").Service[0].Method[1].ServerStreaming = proto.Bool(false)
		}},
		{"method dropped", "missing: method v3lockpb.Lock.Unlock", func(set *descriptorpb.FileDescriptorSet) {
			s := file(set, "v3lock.proto").Service[0]
			s.Method = s.Method[:1]
		}},
		{"extension", "differs: extension versionpb.etcd_version_msg", func(set *descriptorpb.FileDescriptorSet) {
			file(set, "version.proto").Extension[0].Number = proto.Int32(50100)
		}},
	}
	for _, change := range changes {
		t.Run(change.name, func(t *testing.T) {
			set := proto.Clone(clean).(*descriptorpb.FileDescriptorSet)
			change.apply(set)
			lines := []string{}
			for name, ours := range factsOf(t, set) {
				lines = append(lines, differences(ours, registered(name))...)
			}
			for _, line := range lines {
				if strings.HasPrefix(line, change.want+":") {
					return
				}
			}
			t.Errorf("want a line that starts with %q, have %q", change.want, lines)
		})
	}
}

func file(set *descriptorpb.FileDescriptorSet, name string) *descriptorpb.FileDescriptorProto {
	for _, f := range set.File {
		if f.GetName() == name {
			return f
		}
	}
	panic("no file " + name)
}

func message(set *descriptorpb.FileDescriptorSet, fileName, name string) *descriptorpb.DescriptorProto {
	for _, m := range file(set, fileName).MessageType {
		if m.GetName() == name {
			return m
		}
	}
	panic("no message " + name)
}
