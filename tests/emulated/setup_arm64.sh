#!/usr/bin/env bash
# An arm64 Python 3.11 that runs here under emulation, in DEST alone:
#
#     tests/emulated/setup_arm64.sh DEST [--torch]
#     DEST/arm64-python script.py
#
# qemu-user 10 and a Debian arm64 userland are unpacked, not installed (no root); onnxruntime and ai-edge-litert come as
# aarch64 wheels, with --torch also torch, which the .ptl artifacts need (100 MB; later versions link CUDA). Takes half a
# minute and 600 MB. Needs apt-get, dpkg-deb, pip and the package mirrors that apt and pip are set to.
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[[ $# -ge 1 && $1 != -* ]] || usage
dest=$(realpath -m "$1")
torch=false
case "${2-}" in '') ;; --torch) torch=true ;; *) usage ;; esac

for tool in apt-get dpkg-deb unzip; do
  command -v "$tool" >/dev/null || { echo "$tool is not installed; this script needs Debian or Ubuntu" >&2; exit 2; }
done
[[ ! -e $dest/arm64-python ]] || { echo "$dest holds an arm64 Python already; remove it to make it anew" >&2; exit 2; }

python=${PYTHON:-python3.11}
cpu=${QEMU_CPU_MODEL:-neoverse-n1}  # "max" emulates every extension and is slow
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m1 '/debian/\?$' || true)}
[[ -n $mirror ]] || { echo "apt names no Debian mirror; give one as DEBIAN_MIRROR" >&2; exit 2; }
mkdir -p "$dest"
work=$(mktemp -d "$dest/.work-XXXX")
trap 'rm -rf "$work"' EXIT

# An apt of its own for one architecture and release: it knows nothing as installed and installs nothing here.
apt() {  # name architecture release
  local home=$work/$1
  mkdir -p "$home"/{state/lists/partial,cache/archives/partial}
  touch "$home/state/status"
  echo "deb [signed-by=$keyring] $mirror $3 main" >"$home/sources.list"
  cat >"$home/apt.conf" <<CONF
APT::Architecture "$2"; APT::Architectures { "$2"; }; APT::Install-Recommends "false"; APT::Sandbox::User "root";
Dir::State "$home/state"; Dir::State::status "$home/state/status"; Dir::Cache "$home/cache";
Dir::Etc::sourcelist "$home/sources.list"; Dir::Etc::sourceparts "-";
CONF
  APT_CONFIG=$home/apt.conf apt-get -qq update
}

echo "== emulator" >&2
apt host "$(dpkg --print-architecture)" trixie  # bookworm's 7.2 crashes on onnxruntime
(cd "$work/host" && APT_CONFIG=$work/host/apt.conf apt-get -qq download qemu-user && dpkg-deb -x qemu-user_*.deb unpacked)
mkdir -p "$dest/bin"
cp "$work/host/unpacked/usr/bin/"{qemu-aarch64,qemu-x86_64} "$dest/bin/"

echo "== arm64 userland" >&2
apt arm arm64 bookworm
APT_CONFIG=$work/arm/apt.conf apt-get -qq -y --download-only install python3.11 libstdc++6 libgomp1 libatomic1 >/dev/null
mkdir -p "$dest/root/tmp"
for package in "$work"/arm/cache/archives/*.deb; do dpkg-deb -x "$package" "$dest/root"; done

echo "== aarch64 wheels" >&2
version() { sed -n "s/^$1==//p" "$(dirname "$0")/../../constraints.txt"; }
wheels() {
  "$python" -m pip download -q --no-deps --only-binary :all: -d "$work/wheels" --python-version 3.11 \
    --implementation cp --abi cp311 --abi abi3 --abi none --platform any \
    $(printf -- '--platform manylinux_%s_aarch64 ' 2_34 2_28 2_27 2_17 2014 | sed 's/manylinux_2014/manylinux2014/') "$@"
}
for package in numpy onnxruntime ai-edge-litert safetensors; do
  pinned=$(version "$package")
  wheels "$package${pinned:+==$pinned}"
done
wheels protobuf flatbuffers packaging typing_extensions backports.strenum tqdm ml_dtypes
if $torch; then wheels torch==2.10.0 sympy mpmath networkx jinja2 markupsafe filelock fsspec; fi
mkdir -p "$dest/site"
for wheel in "$work"/wheels/*.whl; do unzip -q -o "$wheel" -d "$dest/site"; done

cat >"$dest/arm64-python" <<RUN
#!/usr/bin/env bash
exec env PYTHONPATH="$dest/site" OPENBLAS_NUM_THREADS=1 \\
  "$dest/bin/qemu-aarch64" -cpu "\${QEMU_CPU_MODEL:-$cpu}" -L "$dest/root" "$dest/root/usr/bin/python3.11" "\$@"
RUN
chmod +x "$dest/arm64-python"
"$dest/arm64-python" -c 'import platform, onnxruntime; print(platform.machine(), "onnxruntime", onnxruntime.__version__)'
