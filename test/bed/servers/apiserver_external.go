//go:build external_apiserver

package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// startEtcd runs the etcd program of the assets.
func startEtcd(ctx context.Context, cp controlPlane) (stop func(), err error) {
	if cp.assets == "" {
		return nil, errors.New("this bed was built without etcd and kube-apiserver: --assets must name their directory")
	}
	etcd := child(ctx, cp.assets, "etcd",
		"--data-dir="+cp.path("etcd"),
		"--unsafe-no-fsync",
		"--log-level=error",
		"--listen-client-urls="+cp.etcdURL(), "--advertise-client-urls="+cp.etcdURL(),
		"--listen-peer-urls="+cp.etcdPeerURL(), "--initial-advertise-peer-urls="+cp.etcdPeerURL(),
		"--initial-cluster=default="+cp.etcdPeerURL())
	if err := etcd.Start(); err != nil {
		return nil, err
	}
	return func() { _ = etcd.Wait() }, nil
}

// runAPIServer runs the kube-apiserver program of the assets until ctx ends.
func runAPIServer(ctx context.Context, cp controlPlane) error {
	return child(ctx, cp.assets, "kube-apiserver", cp.apiServerArgs()...).Run()
}

// child is a program that ends with ctx, or with this process. The caller's
// goroutine must live as long as the child: its thread counts as the parent.
func child(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(dir, name), args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Second // then it is killed
	runtime.LockOSThread()
	cmd.SysProcAttr = diesWithParent()
	return cmd
}
