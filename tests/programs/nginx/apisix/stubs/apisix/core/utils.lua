return { sleep = ngx.sleep }
