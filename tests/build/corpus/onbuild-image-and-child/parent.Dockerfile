FROM busybox
WORKDIR /app
ENV STAGE=build
ONBUILD ARG VERSION=1
ONBUILD COPY --chmod=640 package.txt ./
ONBUILD RUN echo "$STAGE $VERSION $(cat package.txt)" > /built
ONBUILD USER nobody
ONBUILD ENTRYPOINT ["cat", "/built"]
CMD ["x"]
