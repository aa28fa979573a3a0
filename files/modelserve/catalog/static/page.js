"use strict";

// A browser sends no body with GET, but algorithms take one: such a request goes as POST, and the gateway turns it back.
function carryBody(request) {
  const method = (request.method || "GET").toUpperCase();
  if ((method === "GET" || method === "HEAD") && request.body !== undefined && request.body !== null) {
    request.headers["X-HTTP-Method-Override"] = method;
    request.method = "POST";
  }
  return request;
}

// Swagger UI takes lines of JSON for one broken document.
function displayedType(contentType) {
  return /^application\/x-ndjson/i.test(contentType) ? "text/plain" : contentType;
}

// Swagger UI plays sound by a new GET without the body, shows other bytes as text, and names downloads after their type.
function asDownload({ url, contentType, headers }) {
  const route = new URL(url).pathname.split("/").pop();
  const [, extension] = /^(?:audio|video|application)\/(?!octet-stream)(?:x-)?(\w+)/i.exec(contentType) || [];
  const disposition = `attachment; filename="${extension ? `${route}.${extension}` : route}"`;
  return { contentType: "application/octet-stream", headers: { "content-disposition": disposition, ...headers } };
}

function displayed(props) {
  const isFile = props.content instanceof Blob && !/^image\//i.test(props.contentType);
  return { ...props, ...(isFile ? asDownload(props) : { contentType: displayedType(props.contentType) }) };
}

const displayAnswers = () => ({
  wrapComponents: {
    responseBody: (Original, system) => (props) => system.React.createElement(Original, displayed(props)),
  },
});

// Swagger UI would show the state of a form as the text of the next media type.
const resetBodies = () => ({
  statePlugins: {
    oas3: {
      wrapActions: {
        setRequestContentType: (original, system) => (change) => {
          const action = original(change);
          system.oas3Actions.setRequestBodyValue({ value: undefined, pathMethod: change.pathMethod });
          return action;
        },
      },
    },
  },
});

// Swagger UI does not mark a required file that is not chosen: its file fields read `length`, which their errors lack.
function fileErrors({ required, value, errors }) {
  return required && !(value instanceof File) && errors.toJS ? errors.toJS() : [];
}

const markMissing = () => ({
  wrapComponents: {
    JsonSchema_string: (Original, system) => (props) =>
      system.React.createElement(
        Original,
        props.fn.isFileUploadIntended(props.schema) ? { ...props, errors: fileErrors(props) } : props,
      ),
    RequestBody: (Original, system) => (props) => {
      const create = system.React.createElement;
      const missing = props.requestBodyErrors?.size > 0 && !props.requestBodyValue;
      const note = missing ? create("div", { className: "missing-body", role: "alert" }, "The body is required.") : null;
      return create("div", null, create(Original, props), note);
    },
  },
});

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0, // the operations show their schemas
  displayRequestDuration: true,
  tryItOutEnabled: true,
  requestInterceptor: carryBody,
  plugins: [displayAnswers, resetBodies, markMissing],
  validatorUrl: null,
});
