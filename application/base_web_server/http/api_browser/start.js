// Shows /openapi.json. "Authorize" takes the accessToken that a login answers.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null, // nothing is fetched from elsewhere
  tryItOutEnabled: true,
  persistAuthorization: false,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
});
