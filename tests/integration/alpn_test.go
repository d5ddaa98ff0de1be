// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// The TLS port serves gRPC and HTTP. Which of the two a connection is for is decided by the protocols that the client
// offers in its ClientHello, before the handshake: only "h2" is gRPC, "http/1.1" among them or no offer at all is
// HTTP. That rule stands on what clients really offer, which this test records and compares with alpn.md.

// alpnListener notes what each client offers and then ends the handshake.
type alpnListener struct {
	net.Listener
	offers chan []string
	cert   string // File with the certificate, for clients that want one.
}

func listenALPN(t *testing.T) *alpnListener {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	must(t, err)
	l := &alpnListener{offers: make(chan []string, 64)}
	config := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			select {
			case l.offers <- hello.SupportedProtos:
			default:
			}
			return nil, errors.New("all was seen")
		},
	}
	l.Listener, err = net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				tls.Server(conn, config).Handshake()
				conn.Close()
			}()
		}
	}()
	return l
}

// next returns the next offer, as it is written in alpn.md.
func (l *alpnListener) next(limit time.Duration) (string, bool) {
	select {
	case protos := <-l.offers:
		if len(protos) == 0 {
			return "none", true
		}
		return strings.Join(protos, ", "), true
	case <-time.After(limit):
		return "", false
	}
}

// alpnClient is one stock client. run makes it connect to the address; it may return before the handshake. An error
// of the kind errMissing means that the client isn't here.
type alpnClient struct {
	name string
	grpc bool
	slow bool // Needs downloads and a build of minutes: only with CAIRN_ALPN_ALL.
	run  func(t *testing.T, ctx context.Context, addr string) error
}

type errMissing struct{ why string }

func (e errMissing) Error() string { return e.why }

func command(ctx context.Context, dir, name string, args ...string) error {
	if _, err := exec.LookPath(name); err != nil {
		return errMissing{"no " + name}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// background starts a client that goes on trying; the test ends it.
func background(ctx context.Context, dir, name string, args ...string) error {
	if _, err := exec.LookPath(name); err != nil {
		return errMissing{"no " + name}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait()
	return nil
}

func cacheDir(t *testing.T, name string) string {
	dir := filepath.Join(os.TempDir(), "cairn-alpn-"+name)
	must(t, os.MkdirAll(dir, 0o755))
	return dir
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	for name, text := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
}

var insecureTLS = &tls.Config{InsecureSkipVerify: true}

var alpnClients = []alpnClient{
	{name: "Go grpc", grpc: true, run: func(t *testing.T, ctx context.Context, addr string) error {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(insecureTLS.Clone())))
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			conn.Connect()
		}
		return err
	}},
	{name: "Go etcd client", grpc: true, run: func(t *testing.T, ctx context.Context, addr string) error {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + addr}, TLS: insecureTLS.Clone(), Logger: zap.NewNop()})
		if err == nil {
			t.Cleanup(func() { c.Close() })
			go c.Get(ctx, "k")
		}
		return err
	}},
	{name: "Go net/http", run: func(t *testing.T, ctx context.Context, addr string) error {
		client := http.Client{Transport: &http.Transport{TLSClientConfig: insecureTLS.Clone(), ForceAttemptHTTP2: true}}
		go client.Get("https://" + addr)
		return nil
	}},
	{name: "Go net/http, HTTP/1.1 only", run: func(t *testing.T, ctx context.Context, addr string) error {
		// What Prometheus and kubelet probes use when HTTP/2 is off.
		client := http.Client{Transport: &http.Transport{TLSClientConfig: insecureTLS.Clone()}}
		go client.Get("https://" + addr)
		return nil
	}},
	{name: "curl", run: func(t *testing.T, ctx context.Context, addr string) error {
		return background(ctx, "", "curl", "-sk", "https://"+addr)
	}},
	{name: "curl --http1.1", run: func(t *testing.T, ctx context.Context, addr string) error {
		return background(ctx, "", "curl", "-sk", "--http1.1", "https://"+addr)
	}},
	{name: "curl --no-alpn", run: func(t *testing.T, ctx context.Context, addr string) error {
		return background(ctx, "", "curl", "-sk", "--no-alpn", "https://"+addr)
	}},
	{name: "openssl s_client", run: func(t *testing.T, ctx context.Context, addr string) error {
		return background(ctx, "", "openssl", "s_client", "-connect", addr)
	}},
	{name: "Python grpcio", grpc: true, run: func(t *testing.T, ctx context.Context, addr string) error {
		python := pythonWith(ctx, "grpc")
		if python == "" {
			return errMissing{"no Python with grpcio (CAIRN_PYTHON, build/venv)"}
		}
		return background(ctx, "", python, "-c", fmt.Sprintf(
			"import grpc\nc=grpc.secure_channel(%q, grpc.ssl_channel_credentials())\n"+
				"grpc.channel_ready_future(c).result(timeout=20)", addr))
	}},
	{name: "Python http.client", run: func(t *testing.T, ctx context.Context, addr string) error {
		return background(ctx, "", "python3", "-c", fmt.Sprintf("import http.client,ssl\n"+
			"c=http.client.HTTPSConnection(%q,context=ssl._create_unverified_context())\nc.request('GET','/')", addr))
	}},
	{name: "Node https", run: func(t *testing.T, ctx context.Context, addr string) error {
		return background(ctx, "", "node", "-e",
			fmt.Sprintf("require('https').get({rejectUnauthorized:false,...require('url').parse('https://%s')}).on('error',()=>{})", addr))
	}},
	{name: "Node fetch", run: func(t *testing.T, ctx context.Context, addr string) error {
		return background(ctx, "", "node", "-e", fmt.Sprintf("fetch('https://%s').catch(()=>{})", addr))
	}},
	{name: "Node @grpc/grpc-js", grpc: true, run: func(t *testing.T, ctx context.Context, addr string) error {
		dir := cacheDir(t, "node")
		writeFiles(t, dir, map[string]string{"package.json": `{"dependencies":{"@grpc/grpc-js":"^1.13.0"}}`})
		if _, err := os.Stat(filepath.Join(dir, "node_modules", "@grpc", "grpc-js")); err != nil {
			if err := command(ctx, dir, "npm", "install", "--no-audit", "--no-fund"); err != nil {
				return errMissing{err.Error()}
			}
		}
		return background(ctx, dir, "node", "-e", fmt.Sprintf("const g=require('@grpc/grpc-js');"+
			"const c=new g.Client('%s',g.credentials.createSsl(null,null,null,{rejectUnauthorized:false}));"+
			"c.waitForReady(Date.now()+20000,()=>{})", addr))
	}},
	{name: "Java grpc-netty", grpc: true, slow: true, run: func(t *testing.T, ctx context.Context, addr string) error {
		dir := cacheDir(t, "java")
		writeFiles(t, dir, map[string]string{"pom.xml": javaPom, "src/main/java/A.java": javaMain})
		jar := filepath.Join(dir, "target", "a-1.jar")
		if _, err := os.Stat(jar); err != nil {
			if err := command(ctx, dir, "mvn", "-q", "-B", "package"); err != nil {
				return errMissing{err.Error()}
			}
		}
		return background(ctx, dir, "java", "-cp", jar+":target/lib/*", "A", addr)
	}},
	{name: "Java java.net.http", run: func(t *testing.T, ctx context.Context, addr string) error {
		dir := cacheDir(t, "jdk")
		writeFiles(t, dir, map[string]string{"H.java": javaHTTP})
		return background(ctx, dir, "java", "H.java", addr)
	}},
	{name: "Rust tonic", grpc: true, slow: true, run: func(t *testing.T, ctx context.Context, addr string) error {
		dir := cacheDir(t, "rust")
		writeFiles(t, dir, map[string]string{"Cargo.toml": rustCargo, "src/main.rs": rustMain})
		if err := command(ctx, dir, "cargo", "build", "-q", "-j2"); err != nil {
			return errMissing{err.Error()}
		}
		return background(ctx, dir, filepath.Join(dir, "target/debug/a"), addr)
	}},
}

const javaPom = `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>a</groupId><artifactId>a</artifactId><version>1</version>
<properties><maven.compiler.source>11</maven.compiler.source><maven.compiler.target>11</maven.compiler.target>
<project.build.sourceEncoding>UTF-8</project.build.sourceEncoding></properties>
<dependencies><dependency><groupId>io.grpc</groupId><artifactId>grpc-netty-shaded</artifactId><version>1.68.1</version></dependency>
<dependency><groupId>io.grpc</groupId><artifactId>grpc-stub</artifactId><version>1.68.1</version></dependency></dependencies>
<build><plugins><plugin><artifactId>maven-dependency-plugin</artifactId><executions><execution><phase>package</phase>
<goals><goal>copy-dependencies</goal></goals><configuration><outputDirectory>target/lib</outputDirectory></configuration>
</execution></executions></plugin></plugins></build></project>
`

const javaMain = `import io.grpc.ManagedChannel;
import io.grpc.netty.shaded.io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.handler.ssl.util.InsecureTrustManagerFactory;
public class A {
    public static void main(String[] a) throws Exception {
        ManagedChannel c = NettyChannelBuilder.forTarget(a[0]).sslContext(GrpcSslContexts.forClient()
            .trustManager(InsecureTrustManagerFactory.INSTANCE).build()).build();
        c.getState(true);
        Thread.sleep(20000);
    }
}
`

const javaHTTP = `import java.net.URI;
import java.net.http.*;
public class H {
    public static void main(String[] a) throws Exception {
        HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create("https://" + a[0])).build(),
            HttpResponse.BodyHandlers.ofString());
    }
}
`

const rustCargo = `[package]
name = "a"
version = "0.1.0"
edition = "2021"
[dependencies]
tonic = { version = "0.12", features = ["tls"] }
tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
[workspace]
`

const rustMain = `#[tokio::main]
async fn main() {
    let addr = std::env::args().nth(1).unwrap();
    let tls = tonic::transport::ClientTlsConfig::new().domain_name("localhost");
    let e = tonic::transport::Endpoint::from_shared(format!("https://{addr}")).unwrap().tls_config(tls).unwrap();
    let _ = e.connect().await;
}
`

// pythonWith finds an interpreter that has a module.
func pythonWith(ctx context.Context, module string) string {
	for _, python := range []string{os.Getenv("CAIRN_PYTHON"), "../../build/venv/bin/python", "python3"} {
		if python == "" {
			continue
		}
		if exec.CommandContext(ctx, python, "-c", "import "+module).Run() == nil {
			return python
		}
	}
	return ""
}

// TestALPN connects every stock client that is here and compares its offer with the recorded one.
func TestALPN(t *testing.T) {
	recorded := readALPN(t)
	for _, c := range alpnClients {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			want, known := recorded[c.name]
			if !known {
				t.Errorf("%s is not in alpn.md", c.name)
			}
			if c.slow && os.Getenv("CAIRN_ALPN_ALL") == "" {
				t.Skip("needs downloads and a long build: set CAIRN_ALPN_ALL=1")
			}
			l := listenALPN(t)
			ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
			defer cancel()
			// Certificates are for names; some clients refuse addresses.
			addr := "localhost:" + strings.TrimPrefix(l.Addr().String(), "127.0.0.1:")
			if err := c.run(t, ctx, addr); err != nil {
				var missing errMissing
				if errors.As(err, &missing) {
					t.Skip(missing.why)
				}
				t.Fatal(err)
			}
			got, ok := l.next(30 * time.Second)
			if !ok {
				t.Fatal("it never connected")
			}
			t.Logf("%s offers %s", c.name, got)
			if known && got != want { // Another version may offer something else; what counts is the rule.
				t.Logf("alpn.md says %q", want)
			}
			if isGRPC := got == "h2"; isGRPC != c.grpc {
				t.Errorf("the rule takes %s, which offers %s, for gRPC: %v", c.name, got, isGRPC)
			}
		})
	}
}

// readALPN reads the table of alpn.md.
func readALPN(t *testing.T) map[string]string {
	data, err := os.ReadFile("alpn.md")
	must(t, err)
	recorded := map[string]string{}
	for _, line := range strings.Split(string(data), "\n") {
		if cells := strings.Split(line, "|"); len(cells) >= 5 {
			recorded[strings.TrimSpace(cells[1])] = strings.TrimSpace(cells[3])
		}
	}
	return recorded
}
