package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// controlPlane is where one control plane keeps its files and listens. Two
// starts with equal values are the same cluster before and after a restart.
type controlPlane struct {
	dir         string
	kubeconfig  string
	auditLog    string
	port        int
	etcdPort    int
	etcdPeer    int
	assets      string
	controllers bool
}

// stopGrace bounds how long the API server may drain. It waits for watchers, who
// have no reason to leave, and etcd has every acknowledged write anyway.
const stopGrace = 2 * time.Second

// runControlPlane runs etcd, the API server and the controllers until ctx ends
// or one of them does. Ready means that the API server says so, the kubeconfig
// is written and the controllers are started.
func runControlPlane(ctx context.Context, args []string, ready func()) error {
	cp, err := parseControlPlane(args)
	if err != nil {
		return err
	}
	token, err := cp.writeSecrets()
	if err != nil {
		return fmt.Errorf("preparing %s: %w", cp.dir, err)
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopEtcd, err := startEtcd(ctx, cp)
	if err != nil {
		return fmt.Errorf("starting etcd: %w", err)
	}
	defer stopEtcd()

	// Two may end: the API server and the controllers.
	ended := make(chan error, 2)
	go func() { ended <- runAPIServer(ctx, cp) }()
	if err := cp.awaitReady(ctx, token, ended); err != nil {
		return err
	}
	config, err := cp.writeKubeconfig(token)
	if err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	if cp.controllers {
		go func() { ended <- runControllers(ctx, config) }()
	}
	ready()

	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		select {
		case <-ended:
		case <-time.After(stopGrace):
		}
		return nil
	}
}

func parseControlPlane(args []string) (controlPlane, error) {
	var cp controlPlane
	flags := flag.NewFlagSet("controlplane", flag.ContinueOnError)
	flags.StringVar(&cp.dir, "dir", "", "directory of data, keys and certificates; kept over restarts")
	flags.StringVar(&cp.kubeconfig, "kubeconfig-out", "", "where to write the administrator's kubeconfig; default DIR/kubeconfig")
	flags.StringVar(&cp.auditLog, "audit-log", "", "where to log every request as a JSON line; default DIR/audit.jsonl")
	flags.IntVar(&cp.port, "port", 6443, "port of the API server")
	flags.IntVar(&cp.etcdPort, "etcd-port", 2379, "port of etcd")
	flags.IntVar(&cp.etcdPeer, "etcd-peer-port", 2380, "port that etcd wants for peers, though it has none")
	flags.StringVar(&cp.assets, "assets", "", "directory of etcd and kube-apiserver programs, for a bed built with the tag external_apiserver")
	flags.BoolVar(&cp.controllers, "controllers", true, "run the controllers too")
	if err := flags.Parse(args); err != nil {
		return cp, err
	}
	if cp.dir == "" {
		return cp, errors.New("--dir is required")
	}
	if cp.kubeconfig == "" {
		cp.kubeconfig = filepath.Join(cp.dir, "kubeconfig")
	}
	if cp.auditLog == "" {
		cp.auditLog = filepath.Join(cp.dir, "audit.jsonl")
	}
	return cp, nil
}

func (cp controlPlane) path(name string) string { return filepath.Join(cp.dir, name) }
func (cp controlPlane) url() string             { return fmt.Sprintf("https://127.0.0.1:%d", cp.port) }

func (cp controlPlane) etcdURL() string { return fmt.Sprintf("http://127.0.0.1:%d", cp.etcdPort) }

func (cp controlPlane) etcdPeerURL() string { return fmt.Sprintf("http://127.0.0.1:%d", cp.etcdPeer) }

// apiServerArgs are the flags of kube-apiserver, linked or external.
func (cp controlPlane) apiServerArgs() []string {
	return []string{
		"--etcd-servers=" + cp.etcdURL(),
		fmt.Sprintf("--secure-port=%d", cp.port),
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		// The endpoints of the service "kubernetes" refuse a loopback address.
		"--endpoint-reconciler-type=none",
		"--cert-dir=" + cp.path("certs"),
		"--service-account-key-file=" + cp.path("serviceaccount.key"),
		"--service-account-signing-key-file=" + cp.path("serviceaccount.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--token-auth-file=" + cp.path("tokens.csv"),
		"--authorization-mode=RBAC",
		"--service-cluster-ip-range=10.96.0.0/16",
		// No controller creates service accounts or marks nodes ready here.
		"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
		"--audit-policy-file=" + cp.path("audit-policy.yaml"),
		"--audit-log-path=" + cp.auditLog,
		"--audit-log-maxsize=10000",
	}
}

// auditPolicy logs every request once, when it is answered; a watch, which may
// never be, when it starts.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

// writeSecrets makes keys, token and policy on the first start and returns the
// administrator's token, which stays the same over restarts.
func (cp controlPlane) writeSecrets() (string, error) {
	if err := os.MkdirAll(cp.path("certs"), 0o700); err != nil {
		return "", err
	}
	token, err := os.ReadFile(cp.path("token"))
	if err == nil {
		return string(token), nil
	}
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	token = []byte(hex.EncodeToString(random))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{"serviceaccount.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})},
		{"audit-policy.yaml", []byte(auditPolicy)},
		{"tokens.csv", fmt.Appendf(nil, "%s,admin,admin,system:masters\n", token)},
		{"token", token}, // last: its presence says that the others are there
	} {
		if err := os.WriteFile(cp.path(f.name), f.content, 0o600); err != nil {
			return "", err
		}
	}
	return string(token), nil
}

// awaitReady polls /readyz until it answers 200 or the API server ends.
func (cp controlPlane) awaitReady(ctx context.Context, token string, ended <-chan error) error {
	client := &http.Client{
		Timeout: 2 * time.Second,
		// Its certificate is being written while we ask.
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
	ask := func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, cp.url()+"/readyz", nil)
		if err != nil {
			return false
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := client.Do(request)
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case err := <-ended:
			return fmt.Errorf("starting the API server: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// writeKubeconfig writes the administrator's kubeconfig and returns the same
// as a client's configuration.
func (cp controlPlane) writeKubeconfig(token string) (*rest.Config, error) {
	ca, err := os.ReadFile(cp.path("certs/apiserver.crt"))
	if err != nil {
		return nil, err
	}
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["bed"] = &clientcmdapi.Cluster{Server: cp.url(), CertificateAuthorityData: ca}
	kubeconfig.AuthInfos["admin"] = &clientcmdapi.AuthInfo{Token: token}
	kubeconfig.Contexts["bed"] = &clientcmdapi.Context{Cluster: "bed", AuthInfo: "admin", Namespace: "default"}
	kubeconfig.CurrentContext = "bed"
	if err := clientcmd.WriteToFile(*kubeconfig, cp.kubeconfig); err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            cp.url(),
		BearerToken:     token,
		TLSClientConfig: rest.TLSClientConfig{CAData: ca},
	}, nil
}
