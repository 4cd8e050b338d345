// Istiod is the mesh that tests ask what it makes of routing: Istio's own control plane, a client that speaks with it as proxies do,
// and Istio's analyzers. There is no Envoy: who gets which share is what a proxy would be told.
//
//	istiod istiod KUBECONFIG MESHCONFIG HTTP GRPC   serves on two ports of loopback until its standard input ends; prints ready
//	                                                once it answers
//	istiod routes GRPC                              prints as JSON what proxies are told, which stand on its standard input by name, as
//	                                                JSON too
//	istiod analyze                                  prints as JSON what the analyzers say of the objects on its standard input
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"istio.io/istio/pilot/cmd/pilot-discovery/app"
	"istio.io/istio/pkg/log"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "istiod:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	logs := log.DefaultOptions()
	logs.OutputPaths = []string{"stderr"} // what is printed is an answer
	if err := log.Configure(logs); err != nil {
		return err
	}
	switch {
	case len(args) == 5 && args[0] == "istiod":
		go endWithInput()
		go announce("http://127.0.0.1:" + args[3] + "/ready")
		return discovery(args[1], args[2], args[3], args[4])
	case len(args) == 2 && args[0] == "routes":
		var proxies map[string]Proxy
		if err := json.NewDecoder(os.Stdin).Decode(&proxies); err != nil {
			return fmt.Errorf("reading the proxies: %w", err)
		}
		told := map[string]*Told{}
		for name, p := range proxies {
			var err error
			if told[name], err = ask("127.0.0.1:"+args[1], p); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return json.NewEncoder(os.Stdout).Encode(told)
	case len(args) == 1 && args[0] == "analyze":
		found, err := analyze(os.Stdin)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(found)
	}
	return fmt.Errorf("unknown command %q; see the program's doc comment", args)
}

// discovery serves. Istio reads most of its settings from the environment, which whoever starts it gives.
func discovery(kubeconfig, mesh, httpPort, grpcPort string) error {
	cmd := app.NewRootCommand()
	cmd.SetArgs([]string{
		"discovery", "--kubeconfig", kubeconfig, "--meshConfig", mesh, "--httpAddr", "127.0.0.1:" + httpPort,
		"--grpcAddr", "127.0.0.1:" + grpcPort, "--secureGRPCAddr", "", "--httpsAddr", "", "--monitoringAddr", "127.0.0.1:0",
		"--log_target", "stderr", "--kubernetesApiQPS", "200", "--kubernetesApiBurst", "400",
	})
	cmd.SetOut(os.Stderr) // standard output says when it is ready
	return cmd.Execute()
}

// endWithInput has the server never outlive who started it.
func endWithInput() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// announce says when the server answers.
func announce(address string) {
	for range time.Tick(50 * time.Millisecond) {
		res, err := http.Get(address)
		if err != nil {
			continue
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusOK {
			fmt.Println("ready")
			return
		}
	}
}
