//go:build external_apiserver && !linux

package main

import "syscall"

// diesWithParent cannot be had here: a bed that is killed leaves its children.
func diesWithParent() *syscall.SysProcAttr { return nil }
