// Gitea is the forge that tests speak with: Gitea itself, on an SQLite that is all Go, where Gitea's own needs a C compiler.
//
//	gitea gitea CONFIG URL   serves until its standard input ends; prints ready once URL answers
//	gitea ...                Gitea's own commands
package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"code.gitea.io/gitea/cmd"
	"code.gitea.io/gitea/modules/log"
	_ "code.gitea.io/gitea/modules/markup/markdown" // comments are rendered
	"code.gitea.io/gitea/modules/setting"
	"modernc.org/sqlite"
)

func main() {
	version := version()
	sql.Register("sqlite3", database{&sqlite.Driver{}})
	setting.EnableSQLite3 = true
	setting.SupportedDatabaseTypes = append(setting.SupportedDatabaseTypes, "sqlite3")
	setting.AppVer = version
	args := os.Args
	if len(args) == 4 && args[1] == "gitea" {
		go endWithInput()
		go announce(args[3])
		args = []string{args[0], "web", "--config", args[2]}
	}
	err := cmd.RunMainApp(cmd.NewMainApp(cmd.AppVersion{Version: version}), args...)
	log.GetManager().Close()
	if err != nil {
		os.Exit(1)
	}
}

// version is that of Gitea in go.mod; clients ask for it before they use what is newer.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "code.gitea.io/gitea" {
				return strings.TrimPrefix(m.Version, "v")
			}
		}
	}
	return "unknown"
}

// endWithInput has the server never outlive who started it.
func endWithInput() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// announce says when the server answers.
func announce(address string) {
	for range time.Tick(50 * time.Millisecond) {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, address+"/api/healthz", nil)
		if err != nil {
			return
		}
		res, err := http.DefaultClient.Do(req)
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

// database opens what Gitea names in the words of another driver.
type database struct{ next driver.Driver }

// Open implements driver.Driver.
func (d database) Open(name string) (driver.Conn, error) {
	file, query, _ := strings.Cut(name, "?")
	params, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	ours := url.Values{
		"_txlock": params["_txlock"],
		"_pragma": {
			"busy_timeout(" + params.Get("_busy_timeout") + ")",
			"journal_mode(wal)",
			"synchronous(off)", // what a test writes need not survive the machine
		},
	}
	return d.next.Open(file + "?" + ours.Encode())
}
