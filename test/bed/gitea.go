package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"time"

	"code.gitea.io/sdk/gitea"

	"github.com/sluice-cd/sluice/test/bed/loopback"
)

// Administrator is the first user of a Gitea; its password is Password, as everybody's.
const Administrator = "operator"

// GiteaOptions say what a Gitea is like.
type GiteaOptions struct {
	// Dir holds data and log; empty: a temporary directory that Close removes.
	Dir string
	// Progress gets lines about building and starting; nil means none.
	Progress io.Writer
	// Page is the most that one answer of the API lists; 0: Gitea's own 50.
	Page int
}

// Gitea is a running forge: pull requests, merges, branch protection, statuses, webhooks and git over HTTP. Its pages have no
// style sheets. Its methods may be called concurrently.
type Gitea struct {
	// URL is where it is; a repository is at URL/OWNER/NAME.git.
	URL string
	// Dir holds data, and the log gitea.log.
	Dir string

	server    *server
	temporary bool
}

// StartGitea builds Gitea if needed, which the first time takes minutes, and starts one. ctx bounds the start alone.
func StartGitea(ctx context.Context, options GiteaOptions) (*Gitea, error) {
	root, err := FindRoot()
	if err != nil {
		return nil, err
	}
	program, err := BuildGitea(ctx, root, options.Progress)
	if err != nil {
		return nil, err
	}
	g := &Gitea{Dir: options.Dir}
	if g.Dir == "" {
		g.temporary = true
		if g.Dir, err = os.MkdirTemp("", "sluice-gitea-"); err != nil {
			return nil, err
		}
	}
	if err := g.start(ctx, root, program, options); err != nil {
		return nil, errors.Join(fmt.Errorf("starting Gitea: %w", err), g.Close())
	}
	return g, nil
}

func (g *Gitea) start(ctx context.Context, root, program string, options GiteaOptions) error {
	port, err := loopback.Port()
	if err != nil {
		return err
	}
	g.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
	files, err := giteaFiles(ctx, root)
	if err != nil {
		return err
	}
	if g.Dir, err = filepath.Abs(g.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(g.Dir, 0o700); err != nil {
		return err
	}
	config := filepath.Join(g.Dir, "app.ini")
	runs, err := user.Current() // Gitea wants to be told
	if err != nil {
		return err
	}
	if err := os.WriteFile(config, []byte(g.config(runs.Username, port, files, options.Page)), 0o600); err != nil {
		return err
	}
	g.server = &server{name: "gitea", program: program, args: []string{config, g.URL}, log: filepath.Join(g.Dir, "gitea.log")}
	limited, cancel := context.WithTimeout(ctx, 5*time.Minute) // seconds, unless the machine is busy
	defer cancel()
	if err := g.server.start(limited); err != nil {
		return err
	}
	admin := exec.CommandContext(limited, program, "admin", "user", "create", "--config", config, "--admin",
		"--username", Administrator, "--password", Password, "--email", Administrator+"@example.com", "--must-change-password=false")
	if out, err := admin.CombinedOutput(); err != nil {
		return fmt.Errorf("making the first user: %w\n%s", err, out)
	}
	return nil
}

// giteaFiles is where Gitea's module has its templates and texts.
func giteaFiles(ctx context.Context, root string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", "code.gitea.io/gitea")
	cmd.Dir, cmd.Env = filepath.Join(root, "test", "bed", "gitea"), append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("finding Gitea's module: %w\n%s", err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", fmt.Errorf("finding Gitea's module: %w", err)
	}
	return module.Dir, nil
}

func (g *Gitea) config(runs string, port int, files string, page int) string {
	if page == 0 {
		page = 50
	}
	dir := func(name string) string { return filepath.Join(g.Dir, name) }
	return fmt.Sprintf(`APP_NAME = Forge of the test bed
RUN_USER = %s
RUN_MODE = prod
WORK_PATH = %s
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true

[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = %d
ROOT_URL = %s/
STATIC_ROOT_PATH = %s
APP_DATA_PATH = %s
DISABLE_SSH = true
OFFLINE_MODE = true
LFS_START_SERVER = false

[graceful]
GRACEFUL_HAMMER_TIME = 1s

[database]
DB_TYPE = sqlite3
PATH = %s
SQLITE_TIMEOUT = 20000

[repository]
ROOT = %s

[security]
INSTALL_LOCK = true
SECRET_KEY = of-the-test-bed
PASSWORD_HASH_ALGO = pbkdf2$1$50

[service]
DISABLE_REGISTRATION = true
ENABLE_NOTIFY_MAIL = false

[mailer]
ENABLED = false

[webhook]
ALLOWED_HOST_LIST = *
SKIP_TLS_VERIFY = true

[api]
ENABLE_SWAGGER = false
MAX_RESPONSE_ITEMS = %d
DEFAULT_PAGING_NUM = %d

[indexer]
REPO_INDEXER_ENABLED = false
ISSUE_INDEXER_TYPE = db

[actions]
ENABLED = false

[packages]
ENABLED = false

[cron]
ENABLED = false

[log]
MODE = file
LEVEL = Info
ROOT_PATH = %s

[log.file]
FILE_NAME = gitea.log
`, runs, g.Dir, port, g.URL, files, dir("data"), dir("gitea.db"), dir("repositories"), page, page, g.Dir)
}

// Close ends it, and removes its directory if that is temporary.
func (g *Gitea) Close() error {
	var err error
	if g.server != nil {
		err = g.server.stop()
	}
	if g.temporary {
		err = errors.Join(err, os.RemoveAll(g.Dir))
	}
	return err
}

// Stop ends it; StartAgain has it back at the same address with what it knew.
func (g *Gitea) Stop() error { return g.server.stop() }

// StartAgain starts what was stopped.
func (g *Gitea) StartAgain(ctx context.Context) error { return g.server.start(ctx) }

// Client speaks as a user, with its password. It has all of Gitea's API.
func (g *Gitea) Client(ctx context.Context, name string) (*gitea.Client, error) {
	return gitea.NewClient(g.URL, gitea.SetContext(ctx), gitea.SetBasicAuth(name, Password))
}

// User makes one, with the password of all.
func (g *Gitea) User(ctx context.Context, name string) error {
	api, err := g.Client(ctx, Administrator)
	if err != nil {
		return err
	}
	mustChange := false
	_, _, err = api.AdminCreateUser(gitea.CreateUserOption{Username: name, Email: name + "@example.com", Password: Password, MustChangePassword: &mustChange})
	if err != nil {
		return fmt.Errorf("making the user %s: %w", name, err)
	}
	return nil
}

// Token makes a token of a user, by a name that RevokeToken takes.
func (g *Gitea) Token(ctx context.Context, owner, name string, scopes ...gitea.AccessTokenScope) (string, error) {
	api, err := g.Client(ctx, owner)
	if err != nil {
		return "", err
	}
	token, _, err := api.CreateAccessToken(gitea.CreateAccessTokenOption{Name: name, Scopes: scopes})
	if err != nil {
		return "", fmt.Errorf("making a token of %s: %w", owner, err)
	}
	return token.Token, nil
}

// RevokeToken takes a token away.
func (g *Gitea) RevokeToken(ctx context.Context, owner, name string) error {
	api, err := g.Client(ctx, owner)
	if err != nil {
		return err
	}
	if _, err := api.DeleteAccessToken(name); err != nil {
		return fmt.Errorf("revoking the token %s of %s: %w", name, owner, err)
	}
	return nil
}

// Repository makes one of a user, empty, private, with main as its default branch, and gives its address. Others may write to it
// too.
func (g *Gitea) Repository(ctx context.Context, owner, name string, writers ...string) (string, error) {
	api, err := g.Client(ctx, owner)
	if err != nil {
		return "", err
	}
	if _, _, err := api.CreateRepo(gitea.CreateRepoOption{Name: name, Private: true, DefaultBranch: "main"}); err != nil {
		return "", fmt.Errorf("making the repository %s/%s: %w", owner, name, err)
	}
	write := gitea.AccessModeWrite
	for _, writer := range writers {
		if _, err := api.AddCollaborator(owner, name, writer, gitea.AddCollaboratorOption{Permission: &write}); err != nil {
			return "", fmt.Errorf("letting %s write to %s/%s: %w", writer, owner, name, err)
		}
	}
	return g.URL + "/" + owner + "/" + name + ".git", nil
}
