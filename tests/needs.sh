#!/bin/sh
# The programs that tests need and that are not on PyPI. As root on Debian, install them; otherwise list them.
set -u
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
PATH="$PATH:/usr/sbin:/sbin"
need nginx nginx
need haproxy haproxy
need caddy caddy
need varnishtest varnish
need curl curl
need php "php-cli php-curl"
[ -e /usr/share/php/GuzzleHttp/autoload.php ] || missing="$missing php-guzzlehttp-guzzle"
need aria2c aria2
need wrk wrk
need jq jq
need zsh zsh
need fish fish
need redis-server redis-server
need prometheus prometheus
need systemd-analyze systemd
need npm npm
need chromium "chromium fonts-dejavu-core"
# The emulator of Azure Blob Storage, an npm package.
azurite="npm install --global azurite@3"
has_azurite() { command -v azurite-blob >/dev/null 2>&1; }
[ -z "$missing" ] && has_azurite && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    if [ -n "$missing" ]; then
        echo "Installing the Debian packages that tests need:$missing"
        # RUNLEVEL=1 keeps the packages from starting their services.
        export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
        # shellcheck disable=SC2086  # a list of words
        apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing >/dev/null && missing=""
    fi
    if [ -z "$missing" ] && ! has_azurite; then
        echo "Installing the npm package that tests need: azurite"
        $azurite --no-fund --no-audit --loglevel=error >/dev/null
    fi
    [ -z "$missing" ] && has_azurite && exit 0
fi
echo "**********************************************************************"
echo "MISSING PACKAGES. Tests that need them will be SKIPPED. To install them, run as root:"
[ -z "$missing" ] || echo "    apt-get install$missing"
has_azurite || echo "    $azurite"
echo "**********************************************************************"
