;; A component with the right export that asks for an interface no host has.
(component
  (import "acme:missing/thing@1.0.0" (instance $thing
    (export "work" (func))))
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $response-out))

  (core func $work (canon lower (func $thing "work")))
  (core module $module
    (import "thing" "work" (func $work))
    (func (export "handle") (param i32 i32)
      call $work))
  (core instance $instance (instantiate $module
    (with "thing" (instance (export "work" (func $work))))))

  (func $handle (param "request" (own $request)) (param "response-out" (own $response-out))
    (canon lift (core func $instance "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
