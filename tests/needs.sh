#!/bin/sh
# The real servers that tests drive and that are no PyPI packages: installed from Debian where we may, else named.
set -u
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
PATH="$PATH:/usr/sbin:/sbin"
need nginx nginx
need haproxy haproxy
need varnishtest varnish
need curl curl
need wrk wrk
need jq jq
need systemd-analyze systemd
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing$missing"
    # RUNLEVEL=1: the packages must not start their own services on this machine.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    # shellcheck disable=SC2086  # a list of words
    apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing >/dev/null && exit 0
fi
echo "**********************************************************************"
echo "MISSING:$missing. The tests that need them will be SKIPPED and say so."
echo "As root: apt-get install$missing"
echo "**********************************************************************"
