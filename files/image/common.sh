# shellcheck shell=sh
# What the builds of the image and of its layers share.

# Prints Docker's options for the proxy variables that are set. Docker takes their values from its own environment.
proxy_options() {
    for name in http_proxy HTTP_PROXY https_proxy HTTPS_PROXY no_proxy NO_PROXY; do
        if printenv "$name" >/dev/null; then printf ' --build-arg %s' "$name"; fi
    done
}

# Prints apt's login for a mirror whose URL holds a name and a password; nothing for another one.
mirror_login() {
    printf '%s\n' "${DEBIAN_MIRROR:-}" |
        sed -n 's#^\([a-z]*\)://\([^/@:]*\):\([^/@]*\)@\(.*\)$#machine \1://\4 login \2 password \3#p'
}
