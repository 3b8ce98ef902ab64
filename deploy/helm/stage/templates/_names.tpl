{{/* What all objects of one release share. */}}
{{- define "stage.selector" -}}
app.kubernetes.io/name: {{ .Release.Name }}
{{- end }}

{{- define "stage.labels" -}}
{{ include "stage.selector" . }}
app.kubernetes.io/part-of: stage
{{- end }}

{{/* The settings as stage.toml. Not by toToml, which writes every number with a fraction. */}}
{{- define "stage.toml" -}}
{{- range $key, $value := .Values.settings }}
{{- if not (kindIs "map" $value) }}
{{ $key }} = {{ toJson $value }}
{{- else }}
{{- range $name, $peer := $value }}
{{- if not (kindIs "map" $peer) }}
{{ $key }}.{{ $name }} = {{ toJson $peer }}
{{- else }}
{{- range $member, $given := $peer }}
{{ $key }}.{{ $name }}.{{ $member }} = {{ toJson $given }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Seconds from the order to stop until the last line: serve on, drain, end (4), and some to spare. */}}
{{- define "stage.stopSeconds" -}}
{{- $settings := .Values.settings -}}
{{- $delay := $settings.drain_delay_seconds | default 0 | float64 | ceil | int -}}
{{- $drain := $settings.drain_seconds | float64 | ceil | int -}}
{{- add .Values.preStopSeconds $delay $drain 10 -}}
{{- end }}

{{/* Longer than the pod before this one may take to stop. */}}
{{- define "stage.lockWaitSeconds" -}}
{{- add (include "stage.stopSeconds" . | int) 15 -}}
{{- end }}

{{/* All that the pods of the stage and of its jobs share, but for containers and volumes. */}}
{{- define "stage.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . | quote }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
affinity: {{- include "stage.placement" . | nindent 2 }}
securityContext: {{- include "stage.podSecurity" . | nindent 2 }}
{{- end }}

{{- define "stage.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "stage.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* A probe of the admin port, which speaks TLS where the stage has a certificate. */}}
{{- define "stage.scheme" -}}
{{- if .Values.settings.tls_cert }}, scheme: HTTPS{{ end }}
{{- end }}

{{- define "stage.environment" -}}
- {name: STAGE_CONFIG, value: /etc/stage/config/stage.toml}
{{- $name := .Release.Name }}
{{- $full := printf "%s.%s" $name .Release.Namespace }}
{{- $inside := list $name $full (printf "%s.svc" $full) (printf "%s.svc.cluster.local" $full) }}
- {name: STAGE_ALLOWED_HOSTS, value: {{ concat $inside .Values.allowedHosts | join "," | quote }}}
- {name: STAGE_DATABASE_MUST_EXIST, value: "true"}
{{- if .Values.postgres.urlSecret }}
- name: STAGE_DATABASE
  valueFrom:
    secretKeyRef: {name: {{ .Values.postgres.urlSecret | quote }}, key: url}
{{- else }}
- {name: STAGE_LOCK_WAIT_SECONDS, value: {{ include "stage.lockWaitSeconds" . | quote }}}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "stage.mounts" -}}
- {name: settings, mountPath: /etc/stage/config, readOnly: true}
{{- if not .Values.postgres.urlSecret }}
- {name: database, mountPath: /var/lib/stage}
{{- end }}
{{- if .Values.keysSecret }}
- {name: keys, mountPath: /etc/stage/keys, readOnly: true}
{{- end }}
{{- if not .Values.postgres.urlSecret }}
# SQLite sorts large results in a temporary file; VACUUM copies the database to one.
{{- end }}
- {name: temporary, mountPath: /tmp}
{{- end }}

{{- define "stage.volumes" -}}
- name: settings
  configMap: {name: {{ .Release.Name }}-settings}
{{ include "stage.otherVolumes" . }}
{{- end }}

{{/* All but the settings. */}}
{{- define "stage.otherVolumes" -}}
{{- if not .Values.postgres.urlSecret -}}
- name: database
  persistentVolumeClaim: {claimName: {{ .Release.Name }}-database}
{{ end }}
{{- if .Values.keysSecret -}}
- name: keys
  secret: {secretName: {{ .Values.keysSecret | quote }}, defaultMode: 0440}
{{ end -}}
- name: temporary
  emptyDir: {sizeLimit: {{ ternary "1Gi" .Values.volume.size (ne .Values.postgres.urlSecret "") | quote }}}
{{- end }}

{{/* The volume is attached to one node: be where the pod is that has it. Replicas on a server keep apart. */}}
{{- define "stage.placement" -}}
{{ if .Values.postgres.urlSecret }}podAntiAffinity{{ else }}podAffinity{{ end }}:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "stage.selector" . | nindent 12 }}
{{- end }}
