# One layer of Debian packages on top of the image. FTP_PROXY holds apt's login for the mirror (build.sh has the reason for
# the name): declared here, its value would be in the history.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG PACKAGES
ARG RECORD=""
RUN sh /opt/lib/add_packages.sh
