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

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0, // the operations show their schemas
  displayRequestDuration: true,
  tryItOutEnabled: true,
  requestInterceptor: carryBody,
  validatorUrl: null,
});
