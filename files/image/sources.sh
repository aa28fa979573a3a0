# shellcheck shell=sh
# Sets where packages come from, for the shell that reads this. build.sh has the reason for the variables' names.
# pip and uv read the environment: a URL with a password must not be on a command line.
CONDA_CHANNELS=""
if [ "${PYTHON_SOURCE:-}" = mirror ]; then
    export UV_PYTHON_INSTALL_MIRROR="${ftp_proxy:-}"
else
    CONDA_CHANNELS=${ftp_proxy:-}
fi
if [ -n "${FTP_PROXY:-}" ]; then # an empty variable is not the same as none
    export UV_DEFAULT_INDEX="$FTP_PROXY" PIP_INDEX_URL="$FTP_PROXY"
fi
export CONDA_CHANNELS
unset FTP_PROXY ftp_proxy
