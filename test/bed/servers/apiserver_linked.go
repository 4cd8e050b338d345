//go:build !external_apiserver

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

// startEtcd runs etcd in this process. It does not sync to disk: data survives
// the process, not the machine, which is all that a test asks.
func startEtcd(ctx context.Context, cp controlPlane) (stop func(), err error) {
	client, err := url.Parse(cp.etcdURL())
	if err != nil {
		return nil, err
	}
	peer, err := url.Parse(cp.etcdPeerURL())
	if err != nil {
		return nil, err
	}
	cfg := embed.NewConfig()
	cfg.Dir = cp.path("etcd")
	cfg.UnsafeNoFsync = true
	cfg.LogLevel = "error"
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	// Alone, it need not wait for others before it elects itself.
	cfg.TickMs, cfg.ElectionMs = 20, 200

	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, err
	}
	select {
	case <-etcd.Server.ReadyNotify():
		// Close would wait for the API server's connections to end.
		return etcd.Server.HardStop, nil
	case err := <-etcd.Err():
		return nil, err
	case <-time.After(30 * time.Second):
		etcd.Close()
		return nil, errors.New("no leader after 30 s")
	case <-ctx.Done():
		etcd.Close()
		return nil, ctx.Err()
	}
}

// runAPIServer runs kube-apiserver in this process until ctx ends.
func runAPIServer(ctx context.Context, cp controlPlane) error {
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	s := options.NewServerRunOptions()
	flags := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	for _, f := range s.Flags().FlagSets {
		flags.AddFlagSet(f)
	}
	if err := flags.Parse(cp.apiServerArgs()); err != nil {
		return err
	}
	if err := s.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	completed, err := s.Complete(ctx)
	if err != nil {
		return fmt.Errorf("completing the flags: %w", err)
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return fmt.Errorf("checking the flags: %w", utilerrors.NewAggregate(errs))
	}
	return app.Run(ctx, completed)
}
