package main

import (
	"fmt"
	"io"
	"time"

	"istio.io/istio/pkg/config/analysis/analyzers"
	"istio.io/istio/pkg/config/analysis/local"
)

// Message is what an analyzer says.
type Message struct {
	// Code such as IST0101, and Level: Info, Warning or Error.
	Code, Level string
	// About names the object.
	About string
	Text  string
}

// analyze says what Istio's analyzers find in manifests.
func analyze(manifests io.Reader) ([]Message, error) {
	sa := local.NewSourceAnalyzer(analyzers.AllCombined(), "", "istio-system", nil)
	if err := sa.AddDefaultResources(); err != nil {
		return nil, err
	}
	if err := sa.AddReaderKubeSource([]local.ReaderSource{{Name: "objects", Reader: manifests}}); err != nil {
		return nil, fmt.Errorf("reading the objects: %w", err)
	}
	stop := make(chan struct{})
	timer := time.AfterFunc(time.Minute, func() { close(stop) })
	defer timer.Stop()
	result, err := sa.Analyze(stop)
	if err != nil {
		return nil, err
	}
	found := []Message{}
	for _, m := range result.Messages {
		one := Message{Code: m.Type.Code(), Level: m.Type.Level().String(), Text: m.String()}
		if m.Resource != nil {
			one.About = m.Resource.Origin.FriendlyName()
		}
		found = append(found, one)
	}
	return found, nil
}
